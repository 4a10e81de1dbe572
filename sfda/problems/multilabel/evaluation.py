"""What a multi-label classifier is worth on a labelled split."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import nn

from sfda.inference.forward import refuse_not_finite
from sfda.loading.labels import labels_in
from sfda.loading.opened import Opened
from sfda.measures.resampled import ImageCounts, Resampled, mean_of_present
from sfda.problems._outputs import Evaluator, SplitInference
from sfda.problems.multilabel.metrics import MultilabelMetric
from sfda.refs import ModelSpec, Report
from sfda.types import UNSURE


def evaluator_for(
    opened: Opened,
    spec: ModelSpec,
    device: torch.device,
    infer: SplitInference,
    *,
    unknown: bool = True,
) -> Evaluator:
    """How to evaluate networks of this spec on an opened split; nothing is rejected here.

    Raises BadInput where the split has no labels, or they do not fit the model's classes.
    """
    flags = torch.from_numpy(labels_in(opened.split, spec.classes, unknown=unknown).flags)
    flags = flags.to(device)

    def evaluate(network: nn.Module, reject: float | None) -> Report:
        metric = MultilabelMetric(spec.classes)
        for index, out in infer(network):
            refuse_not_finite(out.logits)
            metric.update(out.logits, flags[index])
        return Report(
            split=opened.split.name,
            count=metric.count,
            metrics=metric.compute(),
            per_class=metric.per_class(),
            confusion=[],
            reliability=metric.reliability(),
        )

    return evaluate


def resampled(
    opened: Opened, spec: ModelSpec, outputs: Iterable[Any], *, reject: float | None
) -> Resampled:
    """The macro F1 over the classes that occur in a resample."""
    flags = labels_in(opened.split, spec.classes, unknown=True).flags
    yes = np.zeros(flags.shape, bool)
    for index, out in outputs:
        refuse_not_finite(out.logits)
        yes[index.cpu().numpy()] = (out.logits.double() >= 0).cpu().numpy()
    positive, answered = flags == 1, yes & (flags != UNSURE)
    columns = [part.astype(np.float64) for part in (positive & answered, positive, answered)]

    def macro_f1(weights: ImageCounts) -> float:
        hits, true, answers = (weights @ part for part in columns)
        there = true > 0
        return mean_of_present(2 * hits[there], (true + answers)[there])

    return Resampled("macro_f1", macro_f1)
