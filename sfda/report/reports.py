"""What a model is worth on a labelled split, whatever the problem: a report from one look at it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
from torch import nn

from sfda.building_blocks.boxes import Boxes
from sfda.decision.evaluation import (
    Answered,
    detection_report,
    pose_report,
    report,
    segmentation_report,
)
from sfda.formats.keypoints import Person
from sfda.inference.pose import Pose
from sfda.inference.split import Look, look_at
from sfda.loading import opened as manifests
from sfda.loading.opened import Opened
from sfda.problems.detection.metrics import BoxesOf
from sfda.refs import ModelSpec, Report, Skeleton

Reporter = Callable[[nn.Module, float | None], Report]


def make_reporter(
    opened: Opened,
    spec: ModelSpec,
    device: torch.device,
    *,
    unknown: bool = True,
    look: Look | None = None,
) -> Reporter:
    """How to judge networks of this spec on an opened split, given the threshold of rejection.

    `look` gives the answers for all images in another way than by looking here. Samples of
    `unknown` classes have a meaning where models may reject. Raises BadInput where the split has no
    labels, or they do not fit the model's classes.
    """
    makers = {"segmentation": _of_masks, "detection": _of_boxes, "pose": _of_poses}
    make = makers.get(spec.problem, partial(_of_classes, unknown=unknown))
    here = partial(look_at, opened=opened, spec=spec, device=device)
    return make(opened, spec, device, look or here)


def _of_classes(
    opened: Opened, spec: ModelSpec, device: torch.device, look: Look, *, unknown: bool
) -> Reporter:
    labels = manifests.labels_for(opened.split, spec.classes, unknown=unknown)
    given = torch.from_numpy(np.array(labels, dtype=np.int64)).to(device)

    def judged(network: nn.Module, reject: float | None) -> Report:
        outputs = ((out, given[index]) for index, out in look(network))
        return report(outputs, spec.classes, split=opened.split.name, reject=reject)

    return judged


def _of_masks(opened: Opened, spec: ModelSpec, device: torch.device, look: Look) -> Reporter:
    table, split = manifests.mask_table(opened.split, spec.classes), opened.split
    masks = split.masks
    assert masks is not None

    def answers(network: nn.Module) -> Iterator[Answered]:
        for row, mask, _ in look(network):
            yield Answered(
                mask,
                table[masks.mask(row)],
                group=split.groups[row] if split.groups else None,
                spacing=split.spacings[row] if split.spacings else None,
            )

    def judged(network: nn.Module, reject: float | None) -> Report:
        return segmentation_report(answers(network), spec.classes, split=split.name)

    return judged


def _of_boxes(opened: Opened, spec: ModelSpec, device: torch.device, look: Look) -> Reporter:
    split = opened.split
    truth = manifests.boxes_for(split, spec.classes, unknown=True)
    counted = manifests.shared_classes(split, spec.classes)

    def answers(network: nn.Module) -> Iterator[tuple[BoxesOf, BoxesOf]]:
        for row, found in look(network):
            known = truth[row]
            yield as_arrays(found), BoxesOf(known.boxes, known.labels, None, known.crowd)

    def judged(network: nn.Module, reject: float | None) -> Report:
        return detection_report(answers(network), spec.classes, split=split.name, counted=counted)

    return judged


def _of_poses(opened: Opened, spec: ModelSpec, device: torch.device, look: Look) -> Reporter:
    split = opened.split
    people = manifests.people_for(split, spec.classes)

    def answers(network: nn.Module) -> Iterator[tuple[Pose, Person]]:
        for row, pose in look(network):
            yield pose, people[row]

    def judged(network: nn.Module, reject: float | None) -> Report:
        skeleton = spec.skeleton or Skeleton()
        return pose_report(answers(network), spec.classes, skeleton, split=split.name)

    return judged


def as_arrays(found: Boxes) -> BoxesOf:
    """Boxes as metrics and pictures take them."""
    return BoxesOf(found.boxes.numpy(), found.labels.numpy(), found.scores.numpy())
