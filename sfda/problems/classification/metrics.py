"""Metrics with labels, for evaluation alone. Each name says which average it is."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sfda.building_blocks.rejection import UNKNOWN_NAME, predicted_labels
from sfda.refs import Metrics, ReliabilityBin
from sfda.types import UNKNOWN

BINS = 15


class ClassificationMetric:
    """Confusion matrix and calibration over a set, fed batch by batch.

    Labels are the model's classes, or UNKNOWN for classes that it lacks; with `reject` a prediction
    whose uncertainty exceeds it is "unknown" too. Classes without a sample in the set are left
    out of all averages (SHOT's per-class mean), but predicting one of them is an error.
    """

    def __init__(self, classes: Sequence[str], *, reject: float | None = None) -> None:
        self.names = (*classes, UNKNOWN_NAME)
        self.reject = reject
        size = len(self.names)
        self.counts = torch.zeros(size, size, dtype=torch.long)  # rows truth, columns prediction
        self.bins = torch.zeros(3, BINS, dtype=torch.double)  # count, confidence, correct
        self.log_loss = 0.0

    def update(self, logits: Float[Tensor, "B C"], labels: Int[Tensor, " B"]) -> None:
        """Take in outputs and the truth, in the model's class order."""
        log_probs = logits.double().cpu().log_softmax(1)
        labels = labels.cpu()
        size = len(self.names)
        predicted = predicted_labels(log_probs.exp(), self.reject)
        pairs = (labels % size) * size + predicted % size  # UNKNOWN, -1, is the last
        self.counts += pairs.bincount(minlength=size * size).view(size, size)
        self._calibrate(log_probs[labels != UNKNOWN], labels[labels != UNKNOWN])

    def _calibrate(self, log_probs: Float[Tensor, "B C"], labels: Int[Tensor, " B"]) -> None:
        """Confidence of the likeliest class, rejected or not, on samples of known classes."""
        top = log_probs.exp().max(1)
        bin_of = (top.values * BINS).long().clamp(max=BINS - 1)
        ones = torch.ones_like(top.values)
        for row, value in enumerate((ones, top.values, (top.indices == labels).double())):
            self.bins[row].index_add_(0, bin_of, value)
        self.log_loss -= float(log_probs.gather(1, labels[:, None]).sum())

    @property
    def count(self) -> int:
        """Samples taken in."""
        return int(self.counts.sum())

    @property
    def opens(self) -> bool:
        """Whether "unknown" is a possible truth or prediction here."""
        return self.reject is not None or bool(self.counts[-1].any())

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of rows and columns of `confusion`: "unknown" is the last where it is possible."""
        return self.names if self.opens else self.names[:-1]

    @property
    def confusion(self) -> Int[Tensor, "K K"]:
        """Counts; rows are the truth, columns the predictions."""
        size = len(self.classes)
        return self.counts[:size, :size]

    def compute(self) -> Metrics:
        """The metrics; ValueError if nothing was taken in.

        `overall_accuracy` and `macro_accuracy` over all that occurs, "unknown" being one class;
        of known samples `expected_calibration_error` (15 bins of equal width, arXiv:1706.04599,
        eq. 3) and `log_loss` in nats. With unknown samples also those of `open_set_metrics`; with
        rejection `rejected_share`.
        """
        if not self.count:
            raise ValueError("metrics of no samples")
        support = self.counts.sum(1)
        present = support > 0
        recall = self.counts.diagonal()[present].double() / support[present]
        known = int(support[:-1].sum())
        metrics = {
            "overall_accuracy": float(self.counts.diagonal().sum()) / self.count,
            "macro_accuracy": float(recall.mean()),
        }
        if support[-1] and known:
            metrics |= open_set_metrics(self.counts)
        if self.reject is not None:
            metrics["rejected_share"] = float(self.counts[:, -1].sum()) / self.count
        if known:
            metrics["expected_calibration_error"] = calibration_error(self.bins)
            metrics["log_loss"] = self.log_loss / known
        return metrics

    def reliability(self) -> tuple[ReliabilityBin, ...]:
        """Of samples of known classes, by the probability of the likeliest class."""
        return reliability_of(self.bins)

    def per_class(self) -> dict[str, dict[str, float]]:
        """For every class that occurs: `accuracy` and `count`; for the others `count` 0 alone."""
        support = self.confusion.sum(1).tolist()
        right = self.confusion.diagonal().tolist()
        return {
            name: {"accuracy": r / n, "count": float(n)} if n else {"count": 0.0}
            for name, r, n in zip(self.classes, right, support, strict=True)
        }


def open_set_metrics(counts: Int[Tensor, "K K"], *, eps: float = 0.0) -> Metrics:
    """Metrics of a confusion matrix whose last class is "unknown".

    `os_star`: mean accuracy of the known classes that occur (GLC's accuracy on shared classes);
    `unk`: accuracy of unknown samples, pooled; `os`: mean over known classes and unknown; `hos`:
    harmonic mean of `os_star` and `unk`; `h_score`: the same number by GLC's name. `eps` 1e-5 is
    what GLC's code adds to every denominator (arXiv:2303.07110); reports use 0.

    >>> open_set_metrics(torch.tensor([[1, 1, 0], [0, 0, 0], [0, 1, 3]]))["h_score"]
    0.6
    """
    support = counts.sum(1).double()
    recall = counts.diagonal().double() / (support + eps).clamp_min(1e-12)
    known = recall[:-1][support[:-1] > 0]
    star, unk = float(known.mean()), float(recall[-1])
    both = star + unk + eps
    harmonic = 2 * star * unk / both if both else 0.0
    return {
        "h_score": harmonic,
        "os": (float(known.sum()) + unk) / (len(known) + 1),
        "os_star": star,
        "unk": unk,
        "hos": harmonic,
    }


def reliability_of(bins: Float[Tensor, "3 M"]) -> tuple[ReliabilityBin, ...]:
    """The bins that hold anything, from sums of ones, confidences and hits.

    >>> reliability_of(torch.tensor([[2.0, 0.0], [0.5, 0.0], [1.0, 0.0]]))
    (ReliabilityBin(answers=2, confidence=0.25, right=0.5),)
    """
    return tuple(
        ReliabilityBin(round(count), sure / count, right / count)
        for count, sure, right in bins.T.tolist()
        if count
    )


def calibration_error(bins: Float[Tensor, "3 M"]) -> float:
    """Expected calibration error from per-bin sums of ones, confidences and hits.

    >>> calibration_error(torch.tensor([[2.0, 2.0], [0.5, 1.5], [0.0, 2.0]]).double())
    0.25
    """
    count, confidence, correct = bins
    return float((confidence - correct).abs().sum() / count.sum())
