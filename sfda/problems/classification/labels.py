"""Labels of a classification: one class an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from sfda.errors import BadInput, listed
from sfda.formats.readers import Reader, npz_array
from sfda.manifests.class_matching import class_map, foreign_classes
from sfda.manifests.labels import Indices, SplitContent
from sfda.manifests.schema import Manifest
from sfda.problems._labels import Array, ImageTargets, LabelSet
from sfda.refs import ModelSpec
from sfda.types import UNKNOWN


@dataclass(frozen=True, eq=False)
class ClassLabels(LabelSet):
    """A class of each row: `index` [N], of the manifest's classes or, `in_classes`, the model's."""

    index: Indices = field(repr=False)

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, row: int) -> int:
        return int(self.index[row])

    def take(self, positions: Array) -> ClassLabels:
        """Those of some rows."""
        return ClassLabels(self.index[positions])

    def in_classes(
        self,
        classes: tuple[str, ...] | int | None,
        model: tuple[str, ...],
        manifest: str,
        *,
        unknown: bool = False,
    ) -> ClassLabels:
        """Indices of the model's classes; foreign classes are UNKNOWN."""
        labels = class_map(classes, model, manifest)[self.index]
        if not unknown and (labels == UNKNOWN).any():
            raise foreign_classes(classes, model, manifest, "samples")
        return ClassLabels(labels)

    def row_classes(self) -> list[tuple[int, ...]]:
        """The one class of each row."""
        return [(index,) for index in self.index.tolist()]

    @property
    def known(self) -> Array:
        """[N]: which rows are of a class of the model's."""
        return np.asarray(self.index != UNKNOWN)

    def left_out(self) -> str:
        """What cannot be learnt from."""
        count = int((self.index == UNKNOWN).sum())
        if not count:
            return ""
        return f"{count} annotated rows are of classes that the model lacks and are not learnt from"

    def framed(
        self, reader: Reader, rows: Sequence[int], spec: ModelSpec, folder: Path
    ) -> ImageTargets:
        """Classes know no frame."""
        return ImageTargets(self.index)


def read_classes(
    manifest: Manifest,
    content: SplitContent,
    rows: Sequence[Mapping[str, str]] | None,
    header: Sequence[str],
) -> ClassLabels | None:
    """Labels as indices into the manifest's classes: from the columns `class` and `label` of the
    rows, or from the npz; what does not fit becomes a fault.
    """
    named = [row["class"] for row in rows or () if "class" in header]
    numbered = [row["label"] for row in rows or () if "label" in header]
    if any(named):
        labels = _by_name(manifest, content, named)
        if labels is not None and any(numbered):
            other = _by_number(manifest, content, numbered)
            if other is not None and (labels != other).any():
                row = int((labels != other).argmax())
                content.faults.append(f"{content.keys[row]}: columns class and label disagree")
    elif any(numbered):
        labels = _by_number(manifest, content, numbered)
    else:
        labels = _from_array(manifest, content)
    return None if labels is None else ClassLabels(labels)


def _from_array(manifest: Manifest, content: SplitContent) -> Indices | None:
    if not (manifest.arrays and manifest.arrays.label and manifest.archive_path):
        return None
    array = npz_array(manifest.archive_path, manifest.arrays.label)
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
        raise BadInput(f"label array is {array.dtype} {list(array.shape)}, not whole numbers [N]")
    try:
        picked = array[np.array([int(key) for key in content.keys])]
    except (IndexError, ValueError):
        content.faults.append(f"label array holds {len(array)} labels, too few for its rows")
        return None
    return _in_range(manifest, content, picked.astype(np.int64))


def _by_name(manifest: Manifest, content: SplitContent, names: Sequence[str]) -> Indices | None:
    if not isinstance(manifest.classes, tuple):
        content.faults.append("rows name classes, but the manifest has no list `classes`")
        return None
    index_of = {name: i for i, name in enumerate(manifest.classes)}
    bad = [
        f"{key} ({name or 'none'})"
        for key, name in zip(content.keys, names, strict=True)
        if name not in index_of
    ]
    if bad:
        content.faults.append(f"class not among the manifest's `classes`: {listed(bad)}")
        return None
    return np.array([index_of[name] for name in names], dtype=np.int64)


def _by_number(manifest: Manifest, content: SplitContent, texts: Sequence[str]) -> Indices | None:
    bad = [
        f"{key} ({text or 'none'})"
        for key, text in zip(content.keys, texts, strict=True)
        if not text.isdecimal() or len(text) > 9
    ]
    if bad:
        content.faults.append(f"label is not a whole number: {listed(bad)}")
        return None
    return _in_range(manifest, content, np.array([int(text) for text in texts], dtype=np.int64))


def _in_range(manifest: Manifest, content: SplitContent, labels: Indices) -> Indices | None:
    if manifest.num_classes is None:
        content.faults.append("there are labels, but the manifest says nothing of `classes`")
        return None
    bad = np.flatnonzero((labels < 0) | (labels >= manifest.num_classes))
    if len(bad):
        rows = [f"{content.keys[i]} ({labels[i]})" for i in bad]
        content.faults.append(f"label not in 0..{manifest.num_classes - 1}: {listed(rows)}")
        return None
    return labels


def labels_from_table(
    rows: Sequence[Mapping[str, str]], header: Sequence[str], what: str
) -> list[str | None]:
    """The column `class`. Raises BadInput where there is none."""
    if "class" not in header:
        raise BadInput(f"{what} has no column 'class', only {', '.join(header)}")
    return [row["class"] or None for row in rows]


def labels_from_array(labels: Array, names: tuple[str, ...] | int, what: str) -> list[str]:
    """Names by their number, or the numbers as text. Raises BadInput naming those that fit none."""
    if labels.ndim != 1:
        raise BadInput(f"{what} is {labels.dtype} {list(labels.shape)}, not one whole number a row")
    numbers = [int(label) for label in labels]
    size = len(names) if isinstance(names, tuple) else names
    odd = sorted({str(n) for n in numbers if not 0 <= n < size})
    if odd:
        raise BadInput(f"{what} holds labels that are not in 0..{size - 1}: {listed(odd)}")
    text = names if isinstance(names, tuple) else [str(i) for i in range(size)]
    return [text[n] for n in numbers]


def from_column(
    values: list[str], classes: tuple[str, ...], folder: Path, images: Reader
) -> tuple[ClassLabels, tuple[Path, ...]]:
    """Classes by their names."""
    index = np.array([classes.index(value) for value in values], dtype=np.int64)
    return ClassLabels(index), ()
