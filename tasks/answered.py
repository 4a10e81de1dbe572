"""Rows that people have labelled, made ready to be learnt from."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import torch

from sfda.data.answered import LabelledRows
from sfda.data.mask_store import keep_masks
from sfda.data.masks import IGNORE
from sfda.errors import BadInput
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

    Masks are kept in `folder`. Rows of a class that the model lacks are left out, and said to be.
    Raises BadInput where no class is shared, and for a problem whose answers cannot be learnt from
    yet.
    """
    found = opened.split.answers
    if found is None:
        return None
    place = manifests.class_map(found.classes, spec.classes, opened.split.manifest)
    if found.masks is not None:
        table = np.full(256, IGNORE, dtype=np.uint8)
        table[: len(place)] = np.where(place == UNKNOWN, IGNORE, place)
        with disk_errors(f"masks below {folder}"):
            masks = keep_masks(found.masks, len(found.rows), spec.input, folder, table=table)
        return LabelledRows(
            opened.images, found.rows, masks, spec.input, views, seed=seed, device=device
        )
    if found.labels is None:
        raise BadInput(f"answers cannot be learnt from for {spec.problem} yet")
    labels = place[found.labels]
    known = labels != UNKNOWN
    if not known.all():
        log.warning(
            "%d answered rows are of classes that the model lacks and are not learnt from",
            int((~known).sum()),
        )
    if not known.any():
        return None
    return LabelledRows(
        opened.images, found.rows[known], labels[known], spec.input, views, seed=seed,
        device=device,
    )  # fmt: skip
