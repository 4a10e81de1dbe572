"""Where two pose networks differ: a joint that moved by more than a quarter of tau.

tau is the distance of PCK at 0.1, which decides between two models: a tenth of the longer side of
the person's box. Where a skeleton measures PCK by two joints of the truth that side stands in for
it, as there is no truth here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from jaxtyping import Float

from sfda.building_blocks.heatmaps import peaks
from sfda.manifests.rows import Split
from sfda.measures.change import NEITHER, Claim, ImageUnits, Unit
from sfda.measures.opinions import Backing, Counts, MemberWeights, Opinions, PoolSize
from sfda.problems._labels import Array
from sfda.problems.pose.inference import PEAKS_NEAR, Joints
from sfda.problems.pose.labels import crops_of
from sfda.problems.pose.network import PoseOutput
from sfda.refs import ModelSpec

NEAR = 0.1  # tau, as a share of the longer side of the person's box
MOVED = 1 / 4  # of tau
NEARER = 1 / 10  # of tau
CLAIM = Claim("place", "joints", None, "nearer on a random moved joint")


def reach_of(split: Split, row: int) -> float:
    """tau in pixels of the image; without a box the person fills the image."""
    reader = crops_of(split)
    box = reader.boxes[row]
    return NEAR * (max(box[2:]) if box else reader.crop(row).side)


def answers(output: tuple[int, Joints], spec: ModelSpec) -> Iterator[tuple[int, Array]]:
    """(row, joints [K, 2] in pixels of the image) of one person."""
    row, pose = output
    yield row, np.asarray(pose.joints)


def image_units(one: Array, other: Array, spec: ModelSpec, reach: float) -> ImageUnits:
    """The joints that moved by more than tau / 4, in the order of the joints; `reach` is tau."""
    moved = np.linalg.norm(one - other, axis=1) > MOVED * reach
    changed = np.flatnonzero(moved)

    def unit(number: int) -> Unit:
        joint = int(changed[number])
        first, second = (f"{x:.2f},{y:.2f}" for x, y in (one[joint], other[joint]))
        return Unit((), spec.classes[joint], first, second, reach)

    by_class = {name: (1, int(m)) for name, m in zip(spec.classes, moved, strict=True)}
    return ImageUnits(len(moved), len(changed), by_class, unit)


def x_of(unit: Unit, answer: str) -> tuple[float, ...] | None:
    """+1 where B is nearer to the answer "x,y" by more than tau / 10, -1 where A is, else 0; None
    for what is no answer.
    """
    if answer in NEITHER:
        return (0.0,)
    point, before, after = map(_point, (answer, unit.first, unit.second))
    if point is None or before is None or after is None:
        return None
    gain = float(np.linalg.norm(before - point) - np.linalg.norm(after - point))
    return (float(np.sign(gain)) if abs(gain) > NEARER * unit.reach else 0.0,)


def _point(text: str) -> Array | None:
    """(x, y) of "x,y"; None for anything else."""
    try:
        x, y = map(float, text.split(","))
    except ValueError:
        return None
    return np.array([x, y]) if np.isfinite([x, y]).all() else None


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

    def common(self, others: Sequence[Self], weights: MemberWeights) -> Points:
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
