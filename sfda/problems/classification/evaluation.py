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
from sfda.measures.resampled import ImageCounts, Resampled, mean_of_present
from sfda.problems._labels import Array
from sfda.problems._outputs import Evaluator, SplitInference
from sfda.problems.classification.metrics import ClassificationMetric
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
        reliability=metric.reliability(),
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
    truth = np.asarray(labels_in(opened.split, spec.classes, unknown=True).index)
    right = np.zeros(len(truth))
    for index, out in outputs:
        refuse_not_finite(out.logits)
        # as `ClassificationMetric`: of probabilities in double precision
        probs = out.logits.double().cpu().log_softmax(1).exp()
        rows = index.cpu().numpy()
        right[rows] = truth[rows] == predicted_labels(probs, reject).numpy()
    size, known = len(spec.classes) + 1, truth != UNKNOWN
    places = np.where(known, truth, size - 1)

    def by_class(weights: ImageCounts) -> tuple[Array, Array]:
        """Images of each class that are right, and all; the last class is "unknown"."""
        hits = np.bincount(places, weights * right, minlength=size)
        return hits, np.bincount(places, weights, minlength=size)

    def macro_accuracy(weights: ImageCounts) -> float:
        return mean_of_present(*by_class(weights))

    def h_score(weights: ImageCounts) -> float:
        hits, count = by_class(weights)
        parts = (mean_of_present(hits[:-1], count[:-1]), mean_of_present(hits[-1:], count[-1:]))
        return 2 * parts[0] * parts[1] / sum(parts) if sum(parts) else 0.0

    if known.all() or not known.any():
        return Resampled("macro_accuracy", macro_accuracy)
    return Resampled("h_score", h_score)


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
