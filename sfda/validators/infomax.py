"""Information: certain predictions that use all classes (Krause et al., NeurIPS 2010)."""

from __future__ import annotations

import torch
from torch import Tensor

from sfda.problems.class_outputs import rows_of
from sfda.types import SeenViews
from sfda.validators._base import Validator, ValidatorConfig


class Infomax(Validator):
    """H(mean p) - mean H(p) in nats, in [0, log C]: what a prediction says of its input.

    SHOT minimises its negative (arXiv:2002.08546, eq. 3).
    """

    idea = "certain predictions that use all classes"

    def __init__(self, config: ValidatorConfig | None = None) -> None:
        super().__init__(config)
        self.entropy, self.count = 0.0, 0
        self.sum: Tensor | None = None

    def update(self, seen: SeenViews) -> None:
        """Take in one batch of outputs with logits [B, C], or of pixels [B, C, H, W]."""
        logits = rows_of(seen.output.logits).double()
        probs = logits.softmax(1)
        self.entropy += float(-(probs * logits.log_softmax(1)).sum())
        self.count += len(logits)
        self.sum = probs.sum(0) if self.sum is None else self.sum + probs.sum(0)

    def compute(self) -> float:
        """The mutual information."""
        if self.sum is None:
            raise ValueError("infomax of no predictions")
        mean = self.sum / self.count
        return float(-torch.xlogy(mean, mean).sum()) - self.entropy / self.count


EXPORT = Infomax
