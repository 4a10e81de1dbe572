"""What a classifier is worth on a labelled split."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor, nn

from sfda.building_blocks.rejection import predicted_labels
from sfda.inference.forward import refuse_not_finite
from sfda.loading.labels import labels_in
from sfda.loading.opened import Opened
from sfda.loading.scan import labelled_scan
from sfda.problems._outputs import Evaluator, SplitInference
from sfda.problems._resampled import Resampled, Tables, Weights, mean_of_present
from sfda.problems.classification.metrics import ClassificationMetric, open_set_metrics
from sfda.refs import ModelSpec, Report
from sfda.types import UNKNOWN


def classification_report(
    outputs: Iterable[tuple[Any, Int[Tensor, " B"]]],
    classes: Sequence[str],
    *,
    split: str,
    reject: float | None = None,
) -> Report:
    """The report over pairs of a network's output and the true labels. Raises NotFinite.

    Labels may be UNKNOWN; predictions are where `reject` says so.
    """
    metric = ClassificationMetric(classes, reject=reject)
    for output, labels in outputs:
        refuse_not_finite(output.logits)
        metric.update(output.logits, labels)
    return Report(
        split=split,
        count=metric.count,
        metrics=metric.compute(),
        per_class=metric.per_class(),
        confusion=metric.confusion.tolist(),
    )


def evaluator_for(
    opened: Opened,
    spec: ModelSpec,
    device: torch.device,
    infer: SplitInference,
    *,
    unknown: bool = True,
) -> Evaluator:
    """How to evaluate networks of this spec on an opened split, given the threshold of rejection.

    Raises BadInput where the split has no labels, or they do not fit the model's classes.
    """
    labels = labels_in(opened.split, spec.classes, unknown=unknown).index
    targets = torch.from_numpy(np.array(labels, dtype=np.int64)).to(device)

    def evaluate(network: nn.Module, reject: float | None) -> Report:
        outputs = ((out, targets[index]) for index, out in infer(network))
        return classification_report(outputs, spec.classes, split=opened.split.name, reject=reject)

    return evaluate


def resampled(
    opened: Opened, spec: ModelSpec, outputs: Iterable[Any], *, reject: float | None
) -> Resampled:
    """The H-score where there are samples of unknown classes, else the macro accuracy; of a
    resample without any known sample 0.
    """
    labels = labels_in(opened.split, spec.classes, unknown=True).index
    size = len(spec.classes) + 1
    tables = Tables(size)
    for index, out in outputs:
        refuse_not_finite(out.logits)
        # as `ClassificationMetric`: of probabilities in double precision
        probs = out.logits.double().cpu().log_softmax(1).exp()
        predicted = predicted_labels(probs, reject).numpy()
        for row, answer in zip(index.tolist(), predicted.tolist(), strict=True):
            tables.add(np.array([labels[row] % size]), np.array([answer % size]))  # -1 is the last
    summed, unknown = tables.summed(), bool((np.asarray(labels) == UNKNOWN).any())
    known = bool((np.asarray(labels) != UNKNOWN).any())

    def macro_accuracy(weights: Weights) -> float:
        table = summed(weights)
        return mean_of_present(table.diagonal(), table.sum(1))

    def h_score(weights: Weights) -> float:
        table = torch.from_numpy(summed(weights))
        there = table.sum(1) > 0
        return open_set_metrics(table)["h_score"] if there[-1] and there[:-1].any() else 0.0

    return (
        Resampled("h_score", h_score)
        if unknown and known
        else Resampled("macro_accuracy", macro_accuracy)
    )


def threshold_reports(
    network: nn.Module,
    opened: Opened,
    spec: ModelSpec,
    thresholds: Sequence[float],
    device: torch.device,
) -> dict[float, Report]:
    """The reports of a classifier at several thresholds of rejection, from one scan."""
    labels = labels_in(opened.split, spec.classes, unknown=True).index
    outputs = list(labelled_scan(opened.images, labels, spec.input, device=device)(network))
    return {
        above: classification_report(outputs, spec.classes, split=opened.split.name, reject=above)
        for above in thresholds
    }
