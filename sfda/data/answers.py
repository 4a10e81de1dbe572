"""Labels that people gave for single rows of a split: the one kind that an adaptation may see.

They lie in a file of their own, so that hiding the labels of a manifest leaves them alone.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sfda.data.digests import file_digest
from sfda.data.labels import Labels, listed
from sfda.data.masks import IGNORE, MaskReader
from sfda.data.readers import FileReader, Folder, Reader
from sfda.data.schema import REMAKE, AnswersSpec, Manifest
from sfda.errors import BadInput


@dataclass(frozen=True, eq=False)
class Answers:
    """Answers to rows of a split: `rows` [L], and labels [L] or masks as indices of `classes`."""

    rows: Labels
    classes: tuple[str, ...]
    sha256: str  # of the file, and of the masks it names
    labels: Labels | None = field(default=None, repr=False)
    masks: MaskReader | None = field(default=None, repr=False)


def read_answers(
    manifest: Manifest, spec: AnswersSpec, keys: Sequence[str], images: Reader
) -> Answers:
    """The answers of a split with these keys. Raises BadInput naming all that is wrong."""
    from sfda.data.rows import read_csv

    path = manifest.path.parent / spec.rows
    if not path.is_file():
        raise BadInput(f"file of answers {path} is missing; {REMAKE}")
    digest = file_digest(path)
    if digest != spec.sha256:
        raise BadInput(
            f"file of answers {path} is not the one this manifest was made with (other sha256); "
            f"{REMAKE}"
        )
    rows, header = read_csv(path)
    key = "index" if manifest.arrays else "file"
    what = "mask" if manifest.problem == "segmentation" else "class"
    if lacking := [name for name in (key, what) if name not in header]:
        raise BadInput(f"file of answers {path} has no column '{lacking[0]}'")
    place = {name: row for row, name in enumerate(keys)}
    given = Counter(row[key] for row in rows)
    faults = [
        f"{said}: {listed(found)}"
        for said, found in (
            ("answers for rows that the split lacks", [k for k in given if k not in place]),
            ("answered twice", [k for k, times in given.items() if times > 1]),
            (
                "classes that are none of the answers'",
                [f"{r[key]} ({r[what]})" for r in rows if r[what] not in spec.classes]
                if what == "class"
                else [],
            ),
        )
        if found
    ]
    if len(rows) != spec.count:
        faults.append(f"{len(rows)} answers, but the manifest counts {spec.count}")
    if faults:
        raise BadInput(f"file of answers {path}: " + "; ".join(faults))
    where = np.array([place[row[key]] for row in rows], dtype=np.int64)
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


@dataclass(frozen=True)
class _Some:
    """Some rows of a reader, as rows of their own."""

    whole: Reader
    rows: Labels

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.whole, name)
        return lambda row, *more: method(int(self.rows[row]), *more)
