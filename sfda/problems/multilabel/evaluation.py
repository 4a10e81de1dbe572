"""What a multi-label classifier is worth on a labelled split."""

from __future__ import annotations

import torch
from torch import nn

from sfda.inference.forward import refuse_not_finite
from sfda.loading.labels import labels_in
from sfda.loading.opened import Opened
from sfda.problems._outputs import Evaluator, SplitInference
from sfda.problems.multilabel.metrics import MultilabelMetric
from sfda.refs import ModelSpec, Report


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
        )

    return evaluate
