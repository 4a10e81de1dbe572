"""Rows that people have labelled, made ready to be learnt from."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sfda.boxes import Boxes, BoxLabels
from sfda.data.answered import LabelledRows
from sfda.data.answers import Answers
from sfda.data.coco import BoxTable
from sfda.data.crops import to_frame as to_crop
from sfda.data.detecting import to_frame
from sfda.data.labels import Labels
from sfda.data.mask_store import keep_masks
from sfda.data.masks import IGNORE
from sfda.problems.pose import PoseTargets
from sfda.refs import ModelSpec, Views
from sfda.types import UNKNOWN
from tasks import manifests
from tasks.home import disk_errors
from tasks.manifests import Opened

log = logging.getLogger("sfda")


def answered_rows(
    opened: Opened, spec: ModelSpec, views: Views, folder: Path, *, seed: int, device: torch.device
) -> LabelledRows | None:
    """The answered rows of a split in the model's classes; None where there are none.

    Masks are kept in `folder`. Rows of a class that the model lacks are left out, and said to be;
    so are boxes of such a class. Raises BadInput where no class is shared, or joints differ.
    """
    found = opened.split.answers
    if found is None:
        return None
    given: dict[str, Any] = {"seed": seed, "device": device}
    if found.people is not None:
        poses = _poses(opened, found, spec)
        return LabelledRows(
            opened.images, found.rows, poses, spec.input, views, pairs=spec.joint_pairs, **given
        )
    place = manifests.class_map(found.classes, spec.classes, opened.split.manifest)
    if found.masks is not None:
        table = np.full(256, IGNORE, dtype=np.uint8)
        table[: len(place)] = np.where(place == UNKNOWN, IGNORE, place)
        with disk_errors(f"masks below {folder}"):
            masks = keep_masks(found.masks, len(found.rows), spec.input, folder, table=table)
        return LabelledRows(opened.images, found.rows, masks, spec.input, views, **given)
    if found.boxes is not None:
        boxes = _boxes(opened, found.rows, found.boxes, place, spec)
        return LabelledRows(opened.images, found.rows, boxes, spec.input, views, **given)
    assert found.labels is not None
    labels = place[found.labels]
    known = labels != UNKNOWN
    if not known.all():
        log.warning(
            "%d answered rows are of classes that the model lacks and are not learnt from",
            int((~known).sum()),
        )
    if not known.any():
        return None
    return LabelledRows(opened.images, found.rows[known], labels[known], spec.input, views, **given)


def _boxes(
    opened: Opened, rows: Labels, table: BoxTable, place: Labels, spec: ModelSpec
) -> list[Boxes]:
    """The boxes of answered rows in the network's frame, those of foreign classes left out."""
    sizes = manifests.AnswerSizes(opened.split)
    boxes, foreign = [], 0
    for row, found in zip(rows.tolist(), table.rows, strict=True):
        labels = place[found.labels]
        known = labels != UNKNOWN
        foreign += int((~known).sum())
        kept = BoxLabels(found.boxes[known], labels[known], found.crowd[known])
        boxes.append(to_frame(kept, sizes[row], spec.input))
    if foreign:
        log.warning("%d answered boxes are of classes that the model lacks", foreign)
    return boxes


def _poses(opened: Opened, answers: Answers, spec: ModelSpec) -> PoseTargets:
    """The joints of answered rows in the network's frame, in the model's order."""
    assert answers.people is not None
    order = manifests.joint_order(answers.classes, spec.classes, opened.split.manifest)
    crops = manifests.crops_of(opened.split)
    placed = [
        to_crop(person.joints[order], crops.crop(row), spec.input.size)
        for row, person in zip(answers.rows.tolist(), answers.people, strict=True)
    ]
    visible = np.stack([person.visible[order] for person in answers.people])
    return PoseTargets(torch.from_numpy(np.stack(placed)).float(), torch.from_numpy(visible))
