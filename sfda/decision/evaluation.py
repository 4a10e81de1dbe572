"""Metrics of a network over a labelled set, and scores over an unlabelled one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Int, UInt8
from torch import Tensor

from sfda.building_blocks.rejection import TwoClusters
from sfda.errors import NotFinite
from sfda.formats.keypoints import Person
from sfda.problems.classification.metrics import ClassificationMetric
from sfda.problems.detection.metrics import BoxesOf, DetectionMetric
from sfda.problems.pose.metrics import PoseMetric
from sfda.problems.segmentation.metrics import SegmentationMetric
from sfda.refs import Report, Scores, Skeleton
from sfda.types import SeenViews
from sfda.validators._base import Validator


class Answered(NamedTuple):
    """One image's mask as a network sees it and as a person does, in the model's classes.

    In the truth 255 does not count. `group` is the volume of a slice, `spacing` its pixels in mm.
    """

    mask: UInt8[np.ndarray, "H W"]
    truth: UInt8[np.ndarray, "H W"]
    group: str | None = None
    spacing: tuple[float, ...] | None = None


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


def segmentation_report(
    answers: Iterable[Answered], classes: Sequence[str], *, split: str
) -> Report:
    """The report over masks; slices of a volume come one after the other."""
    metric = SegmentationMetric(classes)
    for found in answers:
        metric.update(found.mask, found.truth, group=found.group, spacing=found.spacing)
    return Report(
        split=split,
        count=metric.count,
        metrics=metric.compute(),
        per_class=metric.per_class(),
        confusion=metric.confusion.tolist(),
    )


def detection_report(
    answers: Iterable[tuple[BoxesOf, BoxesOf]],
    classes: Sequence[str],
    *,
    split: str,
    counted: Sequence[int] | None = None,
) -> Report:
    """The report over pairs of a network's boxes and a person's; of the classes in `counted`."""
    metric = DetectionMetric(classes, counted=counted)
    for answer, truth in answers:
        metric.update(answer, truth)
    return Report(
        split=split,
        count=metric.count,
        metrics=metric.compute(),
        per_class={name: {"boxes": 0.0} for name in classes} | metric.per_class(),
        confusion=metric.confusion(),
    )


def pose_report(
    answers: Iterable[tuple[Any, Person]], joints: Sequence[str], skeleton: Skeleton, *, split: str
) -> Report:
    """The report over pairs of a network's pose (`joints`, `scores`) and a person's own."""
    metric = PoseMetric(joints, skeleton)
    for pose, truth in answers:
        metric.update(pose.joints, pose.scores, truth)
    return Report(
        split=split, count=metric.count, metrics=metric.compute(), per_class=metric.per_class(),
        confusion=[], note=metric.note(),
    )  # fmt: skip


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
