"""How many boxes there are and how sure, against the source model's (named apart by class)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import nn

from sfda.networks.detector import Detector
from sfda.types import SeenViews
from sfda.validators._base import Validator, ValidatorConfig


class BoxDrift(Validator):
    """-sum_c s_c |log((n_c + 1) / (m_c + 1))| - |p - q|: at most 0, where nothing moved.

    n_c and m_c count the boxes of class c that the network and the source predict, s_c is the
    source's share of the class, p and q are the mean scores. It tells how far an adaptation went,
    not whether it is better: a detector that loses a class, or floods the images, scores low. Our
    own, after the alarms that self-training needs (the count of pseudo-labels against the first).
    """

    idea = "number and scores of boxes against the source's"
    networks: ClassVar[tuple[type[nn.Module], ...]] = (Detector,)
    needs_source: ClassVar[bool] = True

    def __init__(self, config: ValidatorConfig | None = None) -> None:
        super().__init__(config)
        self.before: Mapping[str, Any] | None = None
        self.counts: list[float] = []
        self.scores, self.images = 0.0, 0

    def refer(self, profile: Mapping[str, Any]) -> None:
        """Take what the source says of the whole target: the profile of its predictions."""
        self.before = profile

    def update(self, seen: SeenViews) -> None:
        """Take in one batch of boxes."""
        for boxes in seen.output.boxes:
            counts = boxes.labels.bincount(minlength=len(self.counts)).tolist()
            self.counts = [
                a + b
                for a, b in zip(
                    self.counts + [0.0] * (len(counts) - len(self.counts)), counts, strict=True
                )
            ]
            self.scores += float(boxes.scores.sum())
            self.images += 1

    def compute(self) -> float:
        """The score; ValueError without images, or without the source's profile."""
        if not self.images or self.before is None:
            raise ValueError("boxes of no images, or nothing to compare them with")
        before = list(self.before["classes"].values())
        now = self.counts + [0.0] * (len(before) - len(self.counts))
        total = sum(before) or 1
        moved = sum(
            m / total * abs(math.log((n + 1) / (m + 1))) for n, m in zip(now, before, strict=True)
        )
        mean = self.scores / max(1.0, sum(self.counts))
        return float(-moved - abs(mean - float(self.before["mean_confidence"])))


EXPORT = BoxDrift
