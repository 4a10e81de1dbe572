"""What a pose network says of persons, kept to be compared with other models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from jaxtyping import Float

from sfda.building_blocks.heatmaps import peaks
from sfda.problems._opinions import Backing, Counts, Opinions, PoolSize, Weights
from sfda.problems.pose.inference import PEAKS_NEAR
from sfda.problems.pose.network import PoseOutput

Points = Float[np.ndarray, "N K 2"]


@dataclass(frozen=True, eq=False)
class JointOpinions(Opinions):
    """Where the joints are, in sides of the heatmap.

    The consensus of a joint is the median of all members' places, along each axis; a model agrees
    with it where its joint lies within a twentieth of the side, as two views do.
    """

    joints: Points

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """Along the persons."""
        return cls(np.concatenate([part.joints for part in parts]))

    def common(self, others: Sequence[Self], weights: Weights) -> Points:
        """The medians; all members weigh the same."""
        return np.asarray(np.median([member.joints for member in (self, *others)], axis=0))

    def matched(self, common: Points) -> Counts:
        """By joint."""
        same = (_apart(self.joints, common) <= PEAKS_NEAR).astype(np.float64)
        return Counts(np.ones_like(same), same)

    def backed(self, other: Self, third: Self) -> Backing:
        """Of joints that are further apart than a twentieth: whose place is the nearer one."""
        differ = _apart(self.joints, other.joints) > PEAKS_NEAR
        own, theirs = (_apart(third.joints, one.joints) for one in (self, other))
        return Backing(
            (differ & (own < theirs)).sum(1).astype(np.float64),
            (differ & (theirs < own)).sum(1).astype(np.float64),
        )

    def same_as(self, other: Self) -> bool:
        """Whether all joints are the same."""
        return bool((self.joints == other.joints).all())


def _apart(one: Points, other: Points) -> Float[np.ndarray, "N K"]:
    return np.asarray(np.linalg.norm(one - other, axis=2))


def opinions(output: PoseOutput, rows: Sequence[int], pool: PoolSize) -> JointOpinions:
    """The peaks of each person's heatmaps."""
    places, _ = peaks(output.heatmaps)
    sides = np.array(output.heatmaps.shape[:-3:-1], np.float32)  # width, height
    return JointOpinions(places.cpu().numpy().astype(np.float32) / sides)
