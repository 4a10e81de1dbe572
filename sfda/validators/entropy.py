"""Certainty: negative mean entropy (Morerio et al., ICLR 2018, arXiv:1711.10288)."""

from __future__ import annotations

import math
from typing import ClassVar

from torch import nn

from sfda.problems.registry import problem_of
from sfda.types import SeenViews
from sfda.validators._base import Validator, ValidatorConfig


class EntropyValidator(Validator):
    """-(1/N) sum_i H(p_i) in nats, in [-log C, 0]. Blind to a collapse onto one class.

    Of boxes: H of each score as a probability of yes and no, in [-log 2, 0]; blind to boxes that
    are gone, and -log 2 where there are none at all. Of heatmaps: H of each joint's map, what is
    below 0 left out, as a distribution over its pixels: how far the map spreads. Of several labels
    an image: the mean over classes of H of each probability as one of yes and no, in [-log 2, 0].
    """

    idea = "certain predictions"
    networks: ClassVar[tuple[type[nn.Module], ...]] = (nn.Module,)

    def __init__(self, config: ValidatorConfig | None = None) -> None:
        super().__init__(config)
        self.total, self.count = 0.0, 0
        self.any_images = False  # some of which may have no box

    def update(self, seen: SeenViews) -> None:
        """Take in one batch of outputs of any problem's networks."""
        total, count = problem_of(seen.output).entropy_sum(seen.output)
        self.total += total
        self.count += count
        self.any_images = True

    def compute(self) -> float:
        """The negative mean entropy."""
        if not self.count and self.any_images:
            return -math.log(2)
        if not self.count:
            raise ValueError("entropy of no predictions")
        return -self.total / self.count


EXPORT = EntropyValidator
