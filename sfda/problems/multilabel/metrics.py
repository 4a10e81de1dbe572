"""Metrics with labels of several classes an image, for evaluation alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from sklearn.metrics import average_precision_score
from torch import Tensor

from sfda.errors import BadInput
from sfda.problems.classification.metrics import BINS, reliability_of
from sfda.refs import Metrics, ReliabilityBin
from sfda.types import UNSURE


class MultilabelMetric:
    """F1, average precision and log loss over a set, fed batch by batch.

    Yes is a probability of 0.5 and above. Classes that no image of the set has, and such as nothing
    is said of, are left out of the means over classes; to predict one of the former is an error in
    `micro_f1`, `exact_match` and `log_loss`.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = tuple(classes)
        self._logits: list[Tensor] = []
        self._truth: list[Tensor] = []
        self._per_class: dict[str, dict[str, float]] = {}  # of all that was taken in, or nothing

    def update(self, logits: Float[Tensor, "B C"], truth: Float[Tensor, "B C"]) -> None:
        """Take in outputs and the truth (1, 0, or UNSURE), in the model's class order."""
        self._logits.append(logits.double().cpu())
        self._truth.append(truth.to(torch.int16).cpu())
        self._per_class = {}

    @property
    def count(self) -> int:
        """Images taken in."""
        return sum(map(len, self._truth))

    def compute(self) -> Metrics:
        """`macro_f1` and `mean_average_precision` (of the ranking of all images, in steps, as
        scikit-learn's), means over the classes that occur; over all answers together `micro_f1`
        and `log_loss` (binary, in nats); `exact_match`, the share of images with no wrong answer.

        ValueError if nothing was taken in; BadInput where no image has any of the classes.
        """
        if not self.count:
            raise ValueError("metrics of no samples")
        scores = [row for row in self.per_class().values() if "f1" in row]
        if not scores:
            raise BadInput("no image has any of the model's classes, so there is nothing to score")
        logits, truth = torch.cat(self._logits), torch.cat(self._truth)
        asked, yes = truth != UNSURE, logits >= 0
        hits, wrong = int((yes & (truth == 1)).sum()), (yes != (truth == 1)) & asked
        terms = F.binary_cross_entropy_with_logits(
            logits[asked], truth[asked].double(), reduction="mean"
        )
        return {
            "macro_f1": sum(row["f1"] for row in scores) / len(scores),
            "mean_average_precision": sum(r["average_precision"] for r in scores) / len(scores),
            "micro_f1": 2 * hits / (2 * hits + int(wrong.sum())),
            "exact_match": float((~wrong.any(1)).double().mean()),
            "log_loss": float(terms),
        }

    def reliability(self) -> tuple[ReliabilityBin, ...]:
        """Of all answers, by the probability of the likelier one of yes and no."""
        if not self.count:
            return ()
        logits, truth = torch.cat(self._logits), torch.cat(self._truth)
        asked = truth != UNSURE
        right = ((logits >= 0) == (truth == 1))[asked].double()
        sure = logits.abs().sigmoid()[asked]
        bins = torch.zeros(3, BINS, dtype=torch.double)
        bin_of = (sure * BINS).long().clamp(max=BINS - 1)
        for row, value in enumerate((torch.ones_like(sure), sure, right)):
            bins[row].index_add_(0, bin_of, value)
        return reliability_of(bins)

    def per_class(self) -> dict[str, dict[str, float]]:
        """For every class that occurs `f1`, `average_precision` and `count`, the images that have
        it; for the others `count` 0 alone.
        """
        if self.count and not self._per_class:
            logits, truth = torch.cat(self._logits), torch.cat(self._truth)
            self._per_class = {
                name: _scores(logits[:, n], truth[:, n]) for n, name in enumerate(self.classes)
            }
        return self._per_class


def _scores(logits: Float[Tensor, " N"], truth: Float[Tensor, " N"]) -> dict[str, float]:
    positive, yes = truth == 1, (logits >= 0) & (truth != UNSURE)
    count = int(positive.sum())
    if not count:
        return {"count": 0.0}
    asked = truth != UNSURE
    return {
        "f1": 2 * int((positive & yes).sum()) / (count + int(yes.sum())),
        "average_precision": float(
            average_precision_score(positive[asked].numpy(), logits[asked].numpy())
        ),
        "count": float(count),
    }
