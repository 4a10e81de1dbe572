"""Certainty: negative mean entropy (Morerio et al., ICLR 2018, arXiv:1711.10288)."""

from __future__ import annotations

from sfda.types import SeenViews
from sfda.validators._base import Validator, rows_of


class Entropy(Validator):
    """-(1/N) sum_i H(p_i) in nats, in [-log C, 0]. Blind to a collapse onto one class."""

    def __init__(self) -> None:
        self.total, self.count = 0.0, 0

    def update(self, seen: SeenViews) -> None:
        """Take in one batch of outputs with logits [B, C], or of pixels [B, C, H, W]."""
        logits = rows_of(seen.output.logits).double()
        self.total += float(-(logits.softmax(1) * logits.log_softmax(1)).sum())
        self.count += len(logits)

    def compute(self) -> float:
        """The negative mean entropy."""
        if not self.count:
            raise ValueError("entropy of no predictions")
        return -self.total / self.count


EXPORT = Entropy
