"""Answers that people gave for single rows of a split: the one kind that an adaptation may see.

They lie in a file of their own, so that hiding the labels of a manifest leaves them alone.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sfda.errors import BadInput, listed
from sfda.formats.coco import (
    BoxTable,
    annotations_of,
    box_table,
    document_faults,
    images_of,
    read_coco,
)
from sfda.formats.keypoints import Person, joints_of
from sfda.formats.masks import IGNORE, MaskReader
from sfda.formats.readers import FileReader, Folder, Reader
from sfda.manifests.digests import file_digest
from sfda.manifests.labels import Indices
from sfda.manifests.schema import REMAKE, AnnotationsSpec, Manifest


@dataclass(frozen=True, eq=False)
class Annotations:
    """Answers to rows of a split: `rows` [L], and for each a label, a mask, boxes or joints, as
    indices of `classes`; boxes and joints in pixels of the images as they came.
    """

    rows: Indices
    classes: tuple[str, ...]
    sha256: str  # of the file, and of the masks it names
    labels: Indices | None = field(default=None, repr=False)
    masks: MaskReader | None = field(default=None, repr=False)
    boxes: BoxTable | None = field(default=None, repr=False)
    persons: tuple[Person, ...] | None = field(default=None, repr=False)


def read_annotations(
    manifest: Manifest, spec: AnnotationsSpec, keys: Sequence[str], images: Reader
) -> Annotations:
    """The answers of a split with these keys. Raises BadInput naming all that is wrong."""
    from sfda.formats.table import read_csv

    path = manifest.path.parent / spec.rows
    if not path.is_file():
        raise BadInput(f"file of answers {path} is missing; {REMAKE}")
    digest = file_digest(path)
    if digest != spec.sha256:
        raise BadInput(
            f"file of answers {path} is not the one this manifest was made with (other sha256); "
            f"{REMAKE}"
        )
    if manifest.problem in ("detection", "pose"):
        return _from_coco(manifest, spec, path, keys, digest)
    rows, header = read_csv(path)
    key = manifest.key_column
    what = "mask" if manifest.problem == "segmentation" else "class"
    if lacking := [name for name in (key, what) if name not in header]:
        raise BadInput(f"file of answers {path} has no column '{lacking[0]}'")
    faults = []
    odd = [f"{row[key]} ({row[what]})" for row in rows if row[what] not in spec.classes]
    if what == "class" and odd:
        faults.append(f"classes that are none of the answers': {listed(odd)}")
    where = _rows_named([row[key] for row in rows], keys, spec, path, faults)
    if what == "class":
        labels = np.array([spec.classes.index(row[what]) for row in rows], dtype=np.int64)
        return Annotations(where, spec.classes, digest, labels=labels)
    stored = FileReader(Folder(path.parent), tuple(row[what] for row in rows), "mask")
    total = hashlib.sha256(digest.encode())
    for row in rows:
        mask = path.parent / row[what]
        total.update(file_digest(mask).encode() if mask.is_file() else b"missing")
    values = tuple(range(len(spec.classes)))
    reader = MaskReader(stored, _Some(images, where), values, IGNORE)
    return Annotations(where, spec.classes, total.hexdigest(), masks=reader)


def _from_coco(
    manifest: Manifest, spec: AnnotationsSpec, path: Path, keys: Sequence[str], digest: str
) -> Annotations:
    """Boxes or joints: each image of the document is a row by its key."""
    document = read_coco(path)
    images = images_of(document, None)
    faults = document_faults(document)
    boxes, persons = None, None
    if manifest.problem == "detection":
        boxes, odd = box_table(document, images, spec.classes)
    else:
        parts = annotations_of(document, images)
        single = [own[0] for own in parts if len(own) == 1]
        if len(single) < len(parts):
            faults.append("rows with none, or several, persons in them")
        joints, odd = joints_of(document, single, [None] * len(single), spec.classes)
        persons = tuple(joints)
    named = [str(image["file_name"]) for image in images]
    where = _rows_named(named, keys, spec, path, faults + odd)
    return Annotations(where, spec.classes, digest, boxes=boxes, persons=persons)


def _rows_named(
    named: Sequence[str], keys: Sequence[str], spec: AnnotationsSpec, path: Path, faults: list[str]
) -> Indices:
    """The rows that answers name. Raises BadInput for what is wrong with them, and for `faults`."""
    row_of = {name: row for row, name in enumerate(keys)}
    times_of = Counter(named)
    if stray := [name for name in times_of if name not in row_of]:
        faults.append(f"answers for rows that the split lacks: {listed(stray)}")
    if twice := [name for name, times in times_of.items() if times > 1]:
        faults.append(f"answered twice: {listed(twice)}")
    if len(named) != spec.count:
        faults.append(f"{len(named)} answers, but the manifest counts {spec.count}")
    if faults:
        raise BadInput(f"file of answers {path}: " + "; ".join(faults))
    return np.array([row_of[name] for name in named], dtype=np.int64)


@dataclass(frozen=True)
class _Some:
    """Some rows of a reader, as rows of their own."""

    whole: Reader
    rows: Indices

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.whole, name)
        return lambda row, *more: method(int(self.rows[row]), *more)
