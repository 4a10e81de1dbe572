"""Certainty: negative mean entropy (Morerio et al., ICLR 2018, arXiv:1711.10288)."""

from __future__ import annotations

import math
from typing import ClassVar

from torch import nn

from sfda.types import SeenViews
from sfda.validators._base import Validator, rows_of


class EntropyValidator(Validator):
    """-(1/N) sum_i H(p_i) in nats, in [-log C, 0]. Blind to a collapse onto one class.

    Of boxes: H of each score as a probability of yes and no, in [-log 2, 0]; blind to boxes that
    are gone, and -log 2 where there are none at all. Of heatmaps: H of each joint's map, what is
    below 0 left out, as a distribution over its pixels: how far the map spreads.
    """

    networks: ClassVar[tuple[type[nn.Module], ...]] = (nn.Module,)

    def __init__(self) -> None:
        self.total, self.count = 0.0, 0
        self.any_images = False  # some of which may have no box

    def update(self, seen: SeenViews) -> None:
        """Take in one batch of outputs with logits [B, C], or of pixels [B, C, H, W]."""
        if isinstance(by_image := getattr(seen.output, "boxes", None), list):
            for boxes in by_image:
                p = boxes.scores.double().clamp(1e-12, 1 - 1e-12)
                self.total += float(-(p * p.log() + (1 - p) * (1 - p).log()).sum())
                self.count += len(p)
            self.any_images = True
            return
        if (maps := getattr(seen.output, "heatmaps", None)) is not None:
            flat = maps.double().clamp(min=0).flatten(2) + 1e-12
            share = flat / flat.sum(-1, keepdim=True)
            self.total += float(-(share * share.log()).sum()) / maps.shape[1]
            self.count += len(maps)
            return
        logits = rows_of(seen.output.logits).double()
        self.total += float(-(logits.softmax(1) * logits.log_softmax(1)).sum())
        self.count += len(logits)

    def compute(self) -> float:
        """The negative mean entropy."""
        if not self.count and self.any_images:
            return -math.log(2)
        if not self.count:
            raise ValueError("entropy of no predictions")
        return -self.total / self.count


EXPORT = EntropyValidator
