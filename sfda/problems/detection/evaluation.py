"""What a detector is worth on a labelled split."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from sfda.loading.labels import labels_in
from sfda.loading.opened import Opened
from sfda.manifests.class_matching import shared_classes
from sfda.measures.resampled import RankedBoxes, Resampled, mean_average_precision
from sfda.problems._outputs import Evaluator, SplitInference
from sfda.problems.classification.metrics import BINS, reliability_of
from sfda.problems.coco_eval import coco_matches
from sfda.problems.detection.change import PARTNER_IOU
from sfda.problems.detection.inference import box_arrays
from sfda.problems.detection.metrics import (
    BoxesOf,
    DetectionMetric,
    coco_predictions,
    coco_truth,
    overlaps,
)
from sfda.refs import ModelSpec, ReliabilityBin, Report


def detection_report(
    pairs: Iterable[tuple[BoxesOf, BoxesOf]],
    classes: Sequence[str],
    *,
    split: str,
    counted: Sequence[int] | None = None,
) -> Report:
    """The report over pairs of a network's boxes and a person's; of the classes in `counted`."""
    metric = DetectionMetric(classes, counted=counted)
    for boxes, truth in pairs:
        metric.update(boxes, truth)
    return Report(
        split=split,
        count=metric.count,
        metrics=metric.compute(),
        per_class={name: {"boxes": 0.0} for name in classes} | metric.per_class(),
        confusion=metric.confusion(),
        reliability=box_reliability(metric.predictions, metric.truth),
    )


def box_reliability(
    predictions: Sequence[BoxesOf], truth: Sequence[BoxesOf]
) -> tuple[ReliabilityBin, ...]:
    """Boxes by their score: right is one that has a box of the truth of its class to itself, with
    an IoU of at least 0.5, the surest boxes choosing first. Boxes on a crowd do not count.
    """
    bins = torch.zeros(3, BINS, dtype=torch.double)
    for boxes, drawn in zip(predictions, truth, strict=True):
        assert boxes.scores is not None
        for label in np.unique(boxes.labels):
            own = boxes.where(boxes.labels == label)
            for score, right in _hits(own, drawn.where(drawn.labels == label)):
                number = min(int(score * BINS), BINS - 1)
                bins[:, number] += torch.tensor((1.0, score, float(right)), dtype=torch.double)
    return reliability_of(bins)


def _hits(boxes: BoxesOf, truth: BoxesOf) -> Iterator[tuple[float, bool]]:
    """Score of each box of a class, the surest first, and whether it is right."""
    assert boxes.scores is not None
    crowd = np.zeros(len(truth.labels), bool) if truth.crowd is None else truth.crowd.astype(bool)
    iou = overlaps(boxes.boxes, truth.boxes)
    free = ~crowd
    for number in np.argsort(-boxes.scores, kind="stable").tolist():
        near = np.where(free, iou[number], 0.0)
        best = int(near.argmax()) if near.size else -1
        right = best >= 0 and near[best] >= PARTNER_IOU
        if right:
            free[best] = False
        elif (iou[number][crowd] >= PARTNER_IOU).any():
            continue
        yield float(boxes.scores[number]), bool(right)


def evaluator_for(
    opened: Opened,
    spec: ModelSpec,
    device: torch.device,
    infer: SplitInference,
    *,
    unknown: bool = True,
) -> Evaluator:
    """How to evaluate networks of this spec on an opened split; nothing is rejected here.

    Boxes of classes that the model lacks do not count. Raises BadInput where the split has no
    labels, or shares no class with the model.
    """
    split = opened.split
    truth = labels_in(split, spec.classes, unknown=True)
    counted = shared_classes(split, spec.classes)

    def pairs(network: nn.Module) -> Iterator[tuple[BoxesOf, BoxesOf]]:
        for row, boxes in infer(network):
            known = truth[row]
            yield box_arrays(boxes), BoxesOf(known.boxes, known.labels, None, known.crowd)

    def evaluate(network: nn.Module, reject: float | None) -> Report:
        return detection_report(pairs(network), spec.classes, split=split.name, counted=counted)

    return evaluate


AP_RESAMPLES = 500


def resampled(
    opened: Opened, spec: ModelSpec, outputs: Iterable[Any], *, reject: float | None
) -> Resampled:
    """COCO's AP50 over the classes that occur in a resample; matched image by image, as
    pycocotools does, so that a resample is sorted and summed anew and nothing else.
    """
    truth = labels_in(opened.split, spec.classes, unknown=True)
    metric = DetectionMetric(spec.classes, counted=shared_classes(opened.split, spec.classes))
    for row, boxes in outputs:
        known = truth[row]
        metric.update(box_arrays(boxes), BoxesOf(known.boxes, known.labels, None, known.crowd))
    ranked = ranked_by_class(metric.predictions, metric.truth, metric.counted)
    return Resampled("coco_ap50", partial(mean_average_precision, ranked), AP_RESAMPLES)


def ranked_by_class(
    predictions: Sequence[BoxesOf], truth: Sequence[BoxesOf], classes: Sequence[int]
) -> list[RankedBoxes]:
    """Predictions of each class, the surest first; those that lie in what is to be ignored are
    left out.
    """
    rows = coco_predictions(predictions)
    counts = {c: np.zeros(len(truth), np.int64) for c in classes}
    for number, drawn in enumerate(truth):
        crowd = np.zeros(len(drawn.labels), bool) if drawn.crowd is None else drawn.crowd > 0
        for label in drawn.labels[~crowd].tolist():
            counts[label][number] += 1
    if not rows:
        none = np.zeros(0, np.int64)
        return [RankedBoxes(none > 0, none, counts[c]) for c in classes]
    ranked = []
    for label, (scores, right, image) in coco_matches(coco_truth(truth, classes), rows, classes):
        order = np.argsort(-scores, kind="mergesort")  # as pycocotools sorts
        ranked.append(RankedBoxes(right[order], image[order], counts[label]))
    return ranked
