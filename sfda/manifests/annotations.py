"""Answers that people gave for single rows of a split: the one kind that an adaptation may see.

They lie in a file of their own, so that hiding the labels of a manifest leaves them alone.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from sfda.errors import BadInput, listed
from sfda.formats.coco import document_faults, images_of, read_coco
from sfda.formats.readers import Reader
from sfda.formats.table import read_csv
from sfda.manifests.digests import file_digest
from sfda.manifests.labels import Indices
from sfda.manifests.schema import REMAKE, AnnotationsSpec, Manifest
from sfda.problems._labels import LabelSet
from sfda.problems.registry import PROBLEMS


@dataclass(frozen=True, eq=False)
class Annotations:
    """Answers to rows of a split: `rows` [L] and what people said of each, in `classes` and in
    pixels of the images as they came.
    """

    rows: Indices
    classes: tuple[str, ...]
    sha256: str  # of the file, and of the files that it names
    labels: LabelSet = field(repr=False)
    files: tuple[Path, ...] = ()  # that the labels lie in, besides the file itself

    def among(self, rows: Indices) -> Annotations | None:
        """Those of some rows of the split, which become rows 0, 1 ...; None where there are none.

        Files and digest stay those of all.
        """
        new_of = {row: number for number, row in enumerate(rows.tolist())}
        own = [n for n, row in enumerate(self.rows.tolist()) if row in new_of]
        if not own:
            return None
        positions = np.array(own, dtype=np.int64)
        there = np.array([new_of[int(row)] for row in self.rows[positions]], dtype=np.int64)
        return replace(self, rows=there, labels=self.labels.take(positions))


def read_annotations(
    manifest: Manifest, spec: AnnotationsSpec, keys: Sequence[str], images: Reader
) -> Annotations:
    """The answers of a split with these keys. Raises BadInput naming all that is wrong."""
    path = manifest.path.parent / spec.rows
    if not path.is_file():
        raise BadInput(f"file of answers {path} is missing; {REMAKE}")
    digest = file_digest(path)
    if digest != spec.sha256:
        raise BadInput(
            f"file of answers {path} is not the one this manifest was made with (other sha256); "
            f"{REMAKE}"
        )
    problem = PROBLEMS[manifest.problem]
    faults: list[str] = []
    if problem.annotation_column is None:
        document = read_coco(path)
        entries = images_of(document, None)
        labels, odd = problem.annotations_from_document(document, entries, spec.classes)
        named = [str(image["file_name"]) for image in entries]
        where = _rows_named(named, keys, spec, path, document_faults(document) + odd)
        return Annotations(where, spec.classes, digest, labels)
    rows, header = read_csv(path)
    key, what = manifest.key_column, problem.annotation_column
    if lacking := [name for name in (key, what) if name not in header]:
        raise BadInput(f"file of answers {path} has no column '{lacking[0]}'")
    values = [row[what] for row in rows]
    if unreadable := problem.annotation_faults(values, spec.classes):
        foreign = [f"{rows[n][key]} ({values[n]})" for n in unreadable]
        faults.append(f"classes that are none of the answers': {listed(foreign)}")
    where = _rows_named([row[key] for row in rows], keys, spec, path, faults)
    own = images.take(where)
    labels, files = problem.annotations_from_column(values, spec.classes, path.parent, own)
    if not files:
        return Annotations(where, spec.classes, digest, labels)
    total = hashlib.sha256(digest.encode())
    for file in files:
        total.update(file_digest(file).encode() if file.is_file() else b"missing")
    return Annotations(where, spec.classes, total.hexdigest(), labels, files)


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
