"""What a model is worth on a labelled split, whatever the problem: a report from one scan of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor, nn

from sfda.building_blocks.boxes import Boxes
from sfda.formats.keypoints import Person
from sfda.inference.forward import refuse_not_finite
from sfda.inference.over_split import SplitInference, infer_split
from sfda.inference.pose import Pose
from sfda.loading.labels import boxes_for, labels_for, mask_table, persons_for
from sfda.loading.opened import Opened
from sfda.loading.scan import labelled_scan
from sfda.manifests.class_matching import shared_classes
from sfda.problems.classification.metrics import ClassificationMetric
from sfda.problems.detection.metrics import BoxesOf, DetectionMetric
from sfda.problems.pose.metrics import PoseMetric
from sfda.problems.segmentation.metrics import SegmentationMetric
from sfda.refs import ModelSpec, Report, Skeleton


class MaskPair(NamedTuple):
    """One image's mask as a network sees it and as a person does, in the model's classes.

    In the truth 255 does not count. `group` is the volume of a slice, `spacing` its pixels in mm.
    """

    mask: UInt8[np.ndarray, "H W"]
    truth: UInt8[np.ndarray, "H W"]
    group: str | None = None
    spacing: tuple[float, ...] | None = None


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


def segmentation_report(pairs: Iterable[MaskPair], classes: Sequence[str], *, split: str) -> Report:
    """The report over masks; slices of a volume come one after the other."""
    metric = SegmentationMetric(classes)
    for pair in pairs:
        metric.update(pair.mask, pair.truth, group=pair.group, spacing=pair.spacing)
    return Report(
        split=split,
        count=metric.count,
        metrics=metric.compute(),
        per_class=metric.per_class(),
        confusion=metric.confusion.tolist(),
    )


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
    )


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
    )


Evaluator = Callable[[nn.Module, float | None], Report]


def make_evaluator(
    opened: Opened,
    spec: ModelSpec,
    device: torch.device,
    *,
    unknown: bool = True,
    infer: SplitInference | None = None,
) -> Evaluator:
    """How to evaluate networks of this spec on an opened split, given the threshold of rejection.

    `infer` gives the outputs for all images in another way than by inference here. Samples of
    `unknown` classes have a meaning where models may reject. Raises BadInput where the split has no
    labels, or they do not fit the model's classes.
    """
    makers = {"segmentation": _of_masks, "detection": _of_boxes, "pose": _of_poses}
    make = makers.get(spec.problem, partial(_of_classes, unknown=unknown))
    here = partial(infer_split, opened=opened, spec=spec, device=device)
    return make(opened, spec, device, infer or here)


def threshold_reports(
    network: nn.Module,
    opened: Opened,
    spec: ModelSpec,
    thresholds: Sequence[float],
    device: torch.device,
) -> dict[float, Report]:
    """The reports of a classifier at several thresholds of rejection, from one scan."""
    labels = labels_for(opened.split, spec.classes, unknown=True)
    outputs = list(labelled_scan(opened.images, labels, spec.input, device=device)(network))
    return {
        above: classification_report(outputs, spec.classes, split=opened.split.name, reject=above)
        for above in thresholds
    }


def _of_classes(
    opened: Opened, spec: ModelSpec, device: torch.device, infer: SplitInference, *, unknown: bool
) -> Evaluator:
    labels = labels_for(opened.split, spec.classes, unknown=unknown)
    targets = torch.from_numpy(np.array(labels, dtype=np.int64)).to(device)

    def evaluate(network: nn.Module, reject: float | None) -> Report:
        outputs = ((out, targets[index]) for index, out in infer(network))
        return classification_report(outputs, spec.classes, split=opened.split.name, reject=reject)

    return evaluate


def _of_masks(
    opened: Opened, spec: ModelSpec, device: torch.device, infer: SplitInference
) -> Evaluator:
    table, split = mask_table(opened.split, spec.classes), opened.split
    masks = split.masks
    assert masks is not None

    def pairs(network: nn.Module) -> Iterator[MaskPair]:
        for row, mask, _ in infer(network):
            yield MaskPair(
                mask,
                table[masks.mask(row)],
                group=split.groups[row] if split.groups else None,
                spacing=split.spacings[row] if split.spacings else None,
            )

    def evaluate(network: nn.Module, reject: float | None) -> Report:
        return segmentation_report(pairs(network), spec.classes, split=split.name)

    return evaluate


def _of_boxes(
    opened: Opened, spec: ModelSpec, device: torch.device, infer: SplitInference
) -> Evaluator:
    split = opened.split
    truth = boxes_for(split, spec.classes, unknown=True)
    counted = shared_classes(split, spec.classes)

    def pairs(network: nn.Module) -> Iterator[tuple[BoxesOf, BoxesOf]]:
        for row, boxes in infer(network):
            known = truth[row]
            yield box_arrays(boxes), BoxesOf(known.boxes, known.labels, None, known.crowd)

    def evaluate(network: nn.Module, reject: float | None) -> Report:
        return detection_report(pairs(network), spec.classes, split=split.name, counted=counted)

    return evaluate


def _of_poses(
    opened: Opened, spec: ModelSpec, device: torch.device, infer: SplitInference
) -> Evaluator:
    split = opened.split
    persons = persons_for(split, spec.classes)

    def pairs(network: nn.Module) -> Iterator[tuple[Pose, Person]]:
        for row, pose in infer(network):
            yield pose, persons[row]

    def evaluate(network: nn.Module, reject: float | None) -> Report:
        skeleton = spec.skeleton or Skeleton()
        return pose_report(pairs(network), spec.classes, skeleton, split=split.name)

    return evaluate


def box_arrays(boxes: Boxes) -> BoxesOf:
    """Boxes as metrics and pictures take them."""
    return BoxesOf(boxes.boxes.numpy(), boxes.labels.numpy(), boxes.scores.numpy())
