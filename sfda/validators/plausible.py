"""Plausible poses: how near the source model's prior finds them (Raychaudhuri et al., ICCV 2023,
arXiv:2308.13954, whose prior it is; as a criterion it is ours)."""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from sfda.problems.pose.network import PoseNet
from sfda.types import SeenViews
from sfda.validators._base import Validator, ValidatorConfig


class Plausible(Validator):
    """-(1/N) sum_i d(pose_i), at most 0. Blind to a pose that is plausible and elsewhere."""

    idea = "the prior finds the poses plausible"
    networks: ClassVar[tuple[type[nn.Module], ...]] = (PoseNet,)

    @classmethod
    def serves(cls, network: nn.Module) -> bool:
        """Those that have a prior."""
        return getattr(network, "prior", None) is not None

    def __init__(self, config: ValidatorConfig | None = None) -> None:
        super().__init__(config)
        self.total, self.count = 0.0, 0

    def update(self, seen: SeenViews) -> None:
        """Take in one batch of a network that has a prior."""
        if seen.output.distance is None:
            raise ValueError("the network has no prior of poses")
        self.total += float(seen.output.distance.double().sum())
        self.count += len(seen.output.distance)

    def compute(self) -> float:
        """The negative mean distance."""
        if not self.count:
            raise ValueError("plausibility of no poses")
        return -self.total / self.count


EXPORT = Plausible
