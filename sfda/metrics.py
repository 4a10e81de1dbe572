"""Metrics with labels, for evaluation alone. Each name says which average it is."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sfda.refs import Metrics

BINS = 15


class ClassificationMetric:
    """Confusion matrix and calibration over a set, fed batch by batch.

    Classes without a sample in the set are left out of `macro_accuracy` (SHOT's per-class mean).
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = tuple(classes)
        size = len(classes)
        self.confusion = torch.zeros(size, size, dtype=torch.long)  # rows truth, columns prediction
        self.bins = torch.zeros(3, BINS, dtype=torch.double)  # count, confidence, correct
        self.log_loss = 0.0

    def update(self, logits: Float[Tensor, "B C"], labels: Int[Tensor, " B"]) -> None:
        """Take in outputs and the truth, in the model's class order."""
        log_probs = logits.double().cpu().log_softmax(1)
        labels = labels.cpu()
        top = log_probs.exp().max(1)
        size = len(self.classes)
        pairs = labels * size + top.indices
        self.confusion += pairs.bincount(minlength=size * size).view(size, size)
        place = (top.values * BINS).long().clamp(max=BINS - 1)
        ones = torch.ones_like(top.values)
        for row, value in enumerate((ones, top.values, (top.indices == labels).double())):
            self.bins[row].index_add_(0, place, value)
        self.log_loss -= float(log_probs.gather(1, labels[:, None]).sum())

    @property
    def count(self) -> int:
        """Samples taken in."""
        return int(self.confusion.sum())

    def compute(self) -> Metrics:
        """The metrics; ValueError if nothing was taken in.

        `overall_accuracy`, `macro_accuracy`, `expected_calibration_error` (15 bins of equal width,
        arXiv:1706.04599, eq. 3) and `log_loss` in nats.
        """
        if not self.count:
            raise ValueError("metrics of no samples")
        support = self.confusion.sum(1)
        present = support > 0
        recall = self.confusion.diagonal()[present] / support[present]
        return {
            "overall_accuracy": float(self.confusion.diagonal().sum()) / self.count,
            "macro_accuracy": float(recall.double().mean()),
            "expected_calibration_error": calibration_error(self.bins),
            "log_loss": self.log_loss / self.count,
        }

    def per_class(self) -> dict[str, dict[str, float]]:
        """For every class that occurs: `accuracy` and `count`; for the others `count` 0 alone."""
        support = self.confusion.sum(1).tolist()
        right = self.confusion.diagonal().tolist()
        return {
            name: {"accuracy": r / n, "count": float(n)} if n else {"count": 0.0}
            for name, r, n in zip(self.classes, right, support, strict=True)
        }


def calibration_error(bins: Float[Tensor, "3 M"]) -> float:
    """Expected calibration error from per-bin sums of ones, confidences and hits.

    >>> calibration_error(torch.tensor([[2.0, 2.0], [0.5, 1.5], [0.0, 2.0]]).double())
    0.25
    """
    count, confidence, correct = bins
    return float((confidence - correct).abs().sum() / count.sum())
