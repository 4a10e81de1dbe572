"""Labels of a multi-label classification: yes or no for every class of an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sfda.bounds.limits import LABEL_FLAGS
from sfda.errors import BadInput, listed
from sfda.formats.readers import Reader, npz_array
from sfda.manifests.class_matching import class_map, foreign_classes
from sfda.manifests.labels import SplitContent
from sfda.manifests.schema import Manifest
from sfda.problems._labels import Array, ImageTargets, LabelSet
from sfda.problems.multilabel.cells import cells_of, columns_in, flags_of_array, names_in
from sfda.refs import ModelSpec
from sfda.types import UNKNOWN, UNSURE


@dataclass(frozen=True, eq=False)
class ClassSets(LabelSet):
    """The classes of each row: `flags` int8 [N, C], 1 for yes, 0 for no, UNSURE where nothing is
    said; in the manifest's classes or, `in_classes`, the model's.
    """

    flags: Array = field(repr=False)

    def __len__(self) -> int:
        return len(self.flags)

    def take(self, positions: Array) -> ClassSets:
        """Those of some rows."""
        return ClassSets(self.flags[positions])

    def in_classes(
        self,
        classes: tuple[str, ...] | int | None,
        model: tuple[str, ...],
        manifest: str,
        *,
        unknown: bool = False,
    ) -> ClassSets:
        """Columns of the model's classes. Nothing is said of those that the manifest does not name;
        its own others are left out where `unknown`, and raise BadInput where some row has them.
        """
        index_of = class_map(classes, model, manifest)
        foreign = self.flags[:, index_of == UNKNOWN] == 1
        if not unknown and foreign.any():
            raise foreign_classes(classes, model, manifest, "samples")
        out = np.full((len(self), len(model)), UNSURE, dtype=np.int8)
        shared = index_of != UNKNOWN
        out[:, index_of[shared]] = self.flags[:, shared]
        return ClassSets(out)

    def row_classes(self) -> list[tuple[int, ...]]:
        """The classes that each row shows."""
        return [tuple(np.flatnonzero(row == 1).tolist()) for row in self.flags]

    @property
    def known(self) -> Array:
        """[N]: which rows say something of a class of the model's."""
        return np.asarray((self.flags != UNSURE).any(1))

    def framed(
        self, reader: Reader, rows: Sequence[int], spec: ModelSpec, folder: Path
    ) -> ImageTargets:
        """Classes know no frame."""
        return ImageTargets(self.flags, np.float32)


def _no_flags(rows: int, classes: int) -> np.ndarray[Any, np.dtype[np.int8]]:
    """[rows, classes] of zeros. Raises BadInput where that is more than memory is taken for."""
    if rows * classes > LABEL_FLAGS.most:
        raise BadInput(
            f"{rows} rows of {classes} classes are {LABEL_FLAGS.refusal(rows * classes)}; make "
            "several manifests, or name fewer classes"
        )
    return np.zeros((rows, classes), dtype=np.int8)


def read_class_sets(
    manifest: Manifest,
    content: SplitContent,
    rows: Sequence[Mapping[str, str]] | None,
    header: Sequence[str],
) -> ClassSets | None:
    """Labels in the manifest's classes: from the rows, or from the npz; None where there are none.
    What does not fit becomes a fault.
    """
    try:
        if "classes" in header or columns_in(header):
            return _by_name(manifest, content, rows or (), header)
        return _from_array(manifest, content)
    except BadInput as error:
        content.faults.append(str(error))
        return None


def _by_name(
    manifest: Manifest,
    content: SplitContent,
    rows: Sequence[Mapping[str, str]],
    header: Sequence[str],
) -> ClassSets | None:
    cells = cells_of(rows, header, "the row file")
    if all(cell is None for cell in cells):
        return None
    if not isinstance(manifest.classes, tuple):
        raise BadInput("rows name classes, but the manifest has no list `classes`")
    if bare := [key for key, cell in zip(content.keys, cells, strict=True) if cell is None]:
        raise BadInput(f"some rows have labels and others none: {listed(bare)}")
    index_of = {name: i for i, name in enumerate(manifest.classes)}
    flags = _no_flags(len(cells), len(index_of))
    bad = []
    for row, cell in enumerate(cells):
        names = names_in(cell or "")
        bad += [f"{content.keys[row]} ({name})" for name in names if name not in index_of]
        flags[row, [index_of[name] for name in names if name in index_of]] = 1
    if foreign := sorted(set(columns_in(header)) - set(index_of)):
        raise BadInput(
            f"columns of what is no class in the manifest's `classes`: {listed(foreign)}"
        )
    if bad:
        raise BadInput(f"class not among the manifest's `classes`: {listed(bad)}")
    if (named := columns_in(header)) and (lacking := [n for n in index_of if n not in named]):
        flags[:, [index_of[name] for name in lacking]] = UNSURE
    return ClassSets(flags)


def _from_array(manifest: Manifest, content: SplitContent) -> ClassSets | None:
    if not (manifest.arrays and manifest.arrays.label and manifest.archive_path):
        return None
    if manifest.num_classes is None:
        raise BadInput("there are labels, but the manifest says nothing of `classes`")
    array = npz_array(manifest.archive_path, manifest.arrays.label)
    flags = flags_of_array(array, manifest.num_classes, "label array")
    try:
        return ClassSets(flags[np.array([int(key) for key in content.keys])])
    except (IndexError, ValueError):
        raise BadInput(f"label array holds {len(array)} rows, too few for its images") from None


def from_column(
    values: list[str], classes: tuple[str, ...], folder: Path, images: Reader
) -> tuple[ClassSets, tuple[Path, ...]]:
    """Classes by their names."""
    flags = _no_flags(len(values), len(classes))
    for row, value in enumerate(values):
        flags[row, [classes.index(name) for name in names_in(value)]] = 1
    return ClassSets(flags), ()
