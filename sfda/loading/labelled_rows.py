"""Rows that people have labelled, made ready to be learnt from."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sfda.formats.masks import IGNORE
from sfda.loading import opened as manifests
from sfda.loading.labelled_batches import LabelledRows
from sfda.loading.network_frame import framed_boxes, framed_poses
from sfda.loading.opened import Opened
from sfda.problems.segmentation.labels import keep_masks
from sfda.refs import ModelSpec, Views
from sfda.state_folder import disk_errors
from sfda.types import UNKNOWN

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
        order = manifests.joint_order(found.classes, spec.classes, opened.split.manifest)
        people = (manifests.in_order(person, order) for person in found.people)
        own = zip(found.rows.tolist(), people, strict=True)
        poses = framed_poses(own, opened.split, spec.input)
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
        kept, foreign = manifests.in_classes(found.boxes, place)
        if foreign:
            log.warning("%d answered boxes are of classes that the model lacks", foreign)
        every = zip(found.rows.tolist(), kept, strict=True)
        boxes = framed_boxes(every, opened.split, spec.input)
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
