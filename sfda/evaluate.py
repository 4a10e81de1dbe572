"""Metrics of a network over a labelled set, and scores over an unlabelled one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

from jaxtyping import Int
from torch import Tensor

from sfda.errors import NotFinite
from sfda.metrics import ClassificationMetric
from sfda.refs import Report, Scores
from sfda.rejection import TwoClusters
from sfda.types import SeenViews
from sfda.validators._base import Validator


class Judged(NamedTuple):
    """What one look at the target without labels tells of a network."""

    scores: Scores
    reject: float | None  # above which uncertainty its answer should be "unknown"


def report(
    outputs: Iterable[tuple[Any, Int[Tensor, " B"]]],
    classes: Sequence[str],
    *,
    split: str,
    reject: float | None = None,
) -> Report:
    """The report over pairs of a network's output and the true labels. Raises NotFinite.

    Labels may be UNKNOWN; answers are where `reject` says so.
    """
    metric = ClassificationMetric(classes, reject=reject)
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


def judge(
    seen: Iterable[SeenViews],
    validators: dict[str, Validator],
    rejection: float | Literal["auto"] | None = None,
) -> Judged:
    """Every validator's score, and the threshold of rejection. Raises NotFinite."""
    clusters = TwoClusters()
    for batch in seen:
        _refuse_nan(batch.output)
        for validator in validators.values():
            validator.update(batch)
        if rejection == "auto":
            clusters.update(batch.output)
    scores = {name: validator.compute() for name, validator in validators.items()}
    return Judged(scores, clusters.compute() if rejection == "auto" else rejection)


def _refuse_nan(output: Any) -> None:
    if not output.logits.isfinite().all():
        raise NotFinite("the network's answers are not finite numbers")
