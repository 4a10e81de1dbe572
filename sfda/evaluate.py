"""Metrics of a network over a labelled set, and scores over an unlabelled one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from jaxtyping import Int
from torch import Tensor

from sfda.errors import NotFinite
from sfda.metrics import ClassificationMetric
from sfda.refs import Report, Scores
from sfda.types import SeenViews
from sfda.validators._base import Validator


def report(
    outputs: Iterable[tuple[Any, Int[Tensor, " B"]]], classes: Sequence[str], *, split: str
) -> Report:
    """The report over pairs of a network's output and the true labels. Raises NotFinite."""
    metric = ClassificationMetric(classes)
    for output, labels in outputs:
        _refuse_nan(output)
        metric.update(output.logits, labels)
    return Report(
        split=split,
        count=metric.count,
        metrics=metric.compute(),
        per_class=metric.per_class(),
        confusion=metric.confusion.tolist(),
    )


def score(seen: Iterable[SeenViews], validators: dict[str, Validator]) -> Scores:
    """Every validator's score from one look at the target. Raises NotFinite."""
    for batch in seen:
        _refuse_nan(batch.output)
        for validator in validators.values():
            validator.update(batch)
    return {name: validator.compute() for name, validator in validators.items()}


def _refuse_nan(output: Any) -> None:
    if not output.logits.isfinite().all():
        raise NotFinite("the network's answers are not finite numbers")
