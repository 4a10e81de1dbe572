"""Answers that people gave for single rows of a split: the one kind that an adaptation may see.

They lie in a file of their own, so that hiding the labels of a manifest leaves them alone.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
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
from sfda.manifests.labels import Labels
from sfda.manifests.schema import REMAKE, AnswersSpec, Manifest


@dataclass(frozen=True, eq=False)
class Answers:
    """Answers to rows of a split: `rows` [L], and for each a label, a mask, boxes or joints, as
    indices of `classes`; boxes and joints in pixels of the images as they came.
    """

    rows: Labels
    classes: tuple[str, ...]
    sha256: str  # of the file, and of the masks it names
    labels: Labels | None = field(default=None, repr=False)
    masks: MaskReader | None = field(default=None, repr=False)
    boxes: BoxTable | None = field(default=None, repr=False)
    people: tuple[Person, ...] | None = field(default=None, repr=False)


def read_answers(
    manifest: Manifest, spec: AnswersSpec, keys: Sequence[str], images: Reader
) -> Answers:
    """The answers of a split with these keys. Raises BadInput naming all that is wrong."""
    from sfda.manifests.table import read_csv

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
    key = "index" if manifest.arrays else "file"
    what = "mask" if manifest.problem == "segmentation" else "class"
    if lacking := [name for name in (key, what) if name not in header]:
        raise BadInput(f"file of answers {path} has no column '{lacking[0]}'")
    faults = []
    odd = [f"{row[key]} ({row[what]})" for row in rows if row[what] not in spec.classes]
    if what == "class" and odd:
        faults.append(f"classes that are none of the answers': {listed(odd)}")
    where = _places([row[key] for row in rows], keys, spec, path, faults)
    if what == "class":
        labels = np.array([spec.classes.index(row[what]) for row in rows], dtype=np.int64)
        return Answers(where, spec.classes, digest, labels=labels)
    stored = FileReader(Folder(path.parent), tuple(row[what] for row in rows), "mask")
    total = hashlib.sha256(digest.encode())
    for row in rows:
        mask = path.parent / row[what]
        total.update(file_digest(mask).encode() if mask.is_file() else b"missing")
    values = tuple(range(len(spec.classes)))
    reader = MaskReader(stored, _Some(images, where), values, IGNORE)
    return Answers(where, spec.classes, total.hexdigest(), masks=reader)


def _from_coco(
    manifest: Manifest, spec: AnswersSpec, path: Path, keys: Sequence[str], digest: str
) -> Answers:
    """Boxes or joints: each image of the document is a row by its key."""
    document = read_coco(path)
    images = images_of(document, None)
    faults = document_faults(document)
    boxes, people = None, None
    if manifest.problem == "detection":
        boxes, odd = box_table(document, images, spec.classes)
    else:
        parts = annotations_of(document, images)
        single = [found[0] for found in parts if len(found) == 1]
        if len(single) < len(parts):
            faults.append("rows with none, or several, persons in them")
        found, odd = joints_of(document, single, [None] * len(single), spec.classes)
        people = tuple(found)
    named = [str(image["file_name"]) for image in images]
    where = _places(named, keys, spec, path, faults + odd)
    return Answers(where, spec.classes, digest, boxes=boxes, people=people)


def _places(
    named: Sequence[str], keys: Sequence[str], spec: AnswersSpec, path: Path, faults: list[str]
) -> Labels:
    """The rows that answers name. Raises BadInput for what is wrong with them, and for `faults`."""
    place = {name: row for row, name in enumerate(keys)}
    given = Counter(named)
    if stray := [name for name in given if name not in place]:
        faults.append(f"answers for rows that the split lacks: {listed(stray)}")
    if twice := [name for name, times in given.items() if times > 1]:
        faults.append(f"answered twice: {listed(twice)}")
    if len(named) != spec.count:
        faults.append(f"{len(named)} answers, but the manifest counts {spec.count}")
    if faults:
        raise BadInput(f"file of answers {path}: " + "; ".join(faults))
    return np.array([place[name] for name in named], dtype=np.int64)


@dataclass(frozen=True)
class _Some:
    """Some rows of a reader, as rows of their own."""

    whole: Reader
    rows: Labels

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.whole, name)
        return lambda row, *more: method(int(self.rows[row]), *more)
