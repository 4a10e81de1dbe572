"""What a pose network is worth on a labelled split."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from sfda.formats.keypoints import Person
from sfda.loading.labels import labels_in
from sfda.loading.opened import Opened
from sfda.measures.resampled import ImageCounts, Resampled
from sfda.problems._outputs import Evaluator, SplitInference
from sfda.problems.classification.metrics import reliability_of
from sfda.problems.pose.inference import Joints
from sfda.problems.pose.metrics import PoseMetric
from sfda.refs import ModelSpec, Report, Skeleton


def pose_report(
    pairs: Iterable[tuple[Any, Person]], joints: Sequence[str], skeleton: Skeleton, *, split: str
) -> Report:
    """The report over pairs of a network's pose (`joints`, `scores`) and a person's own."""
    metric = PoseMetric(joints, skeleton)
    for pose, truth in pairs:
        metric.update(pose.joints, pose.scores, truth)
    return Report(
        split=split,
        count=metric.count,
        metrics=metric.compute(),
        per_class=metric.per_class(),
        confusion=[],
        note=metric.note(),
        reliability=reliability_of(metric.bins()),
    )


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
    split = opened.split
    persons = labels_in(split, spec.classes)

    def pairs(network: nn.Module) -> Iterator[tuple[Joints, Person]]:
        for row, pose in infer(network):
            yield pose, persons[row]

    def evaluate(network: nn.Module, reject: float | None) -> Report:
        skeleton = spec.skeleton or Skeleton()
        return pose_report(pairs(network), spec.classes, skeleton, split=split.name)

    return evaluate


def resampled(
    opened: Opened, spec: ModelSpec, outputs: Iterable[Any], *, reject: float | None
) -> Resampled:
    """PCK at 0.1 over all labelled joints of a resample."""
    persons = labels_in(opened.split, spec.classes)
    metric = PoseMetric(spec.classes, spec.skeleton or Skeleton())
    for row, pose in outputs:
        metric.update(pose.joints, pose.scores, persons[row])
    table = np.stack(metric.shares)
    known = (~np.isnan(table)).sum(1).astype(np.float64)
    near = (table < 0.1).sum(1).astype(np.float64)  # what is not known is not near

    def pck(weights: ImageCounts) -> float:
        total = float(weights @ known)
        return float(weights @ near) / total if total else 0.0

    return Resampled("pck_at_0.1", pck)
