"""What a classifier is worth on a labelled split."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor, nn

from sfda.inference.forward import refuse_not_finite
from sfda.loading.labels import labels_in
from sfda.loading.opened import Opened
from sfda.loading.scan import labelled_scan
from sfda.problems._outputs import Evaluator, SplitInference
from sfda.problems.classification.metrics import ClassificationMetric
from sfda.refs import ModelSpec, Report


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
