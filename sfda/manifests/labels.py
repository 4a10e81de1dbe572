"""What rows say of their classes, as indices into the manifest's list."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from sfda.errors import BadInput, listed
from sfda.formats.readers import npz_array
from sfda.manifests.schema import Manifest

if TYPE_CHECKING:
    from sfda.formats.coco import BoxTable

Indices = np.ndarray[Any, np.dtype[np.int64]]


class Columns(NamedTuple):
    """What a split says of its rows besides images and labels; each for all rows or None."""

    groups: tuple[str, ...] | None = None  # the volume, or video, of each row
    spacings: tuple[tuple[float, ...], ...] | None = None  # mm: [slice,] row, column
    priors: np.ndarray[Any, np.dtype[np.float32]] | None = None  # [N, C], from the user


@dataclass
class SplitContent:
    """What lies behind a split's entry in the manifest, and every fault that was met on the way."""

    keys: list[str] = field(default_factory=list)  # files, or indices as text
    classes: list[str] | None = None
    labels: list[str] | None = None
    masks: list[str] | None = None  # files; indices as text if they lie in an npz
    boxes: BoxTable | None = None
    person_boxes: list[Any] | None = None  # pose: the box of each person, or None
    persons: list[Any] | None = None  # pose: their joints
    more: Columns = field(default_factory=Columns)
    faults: list[str] = field(default_factory=list)


def labels_of(manifest: Manifest, content: SplitContent) -> Indices | None:
    """Labels as indices into the manifest's classes; what does not fit becomes a fault."""
    names = content.classes if any(content.classes or ()) else None
    if names is not None:
        labels = _by_name(manifest, content, names)
        if labels is not None and content.labels and any(content.labels):
            other = _by_number(manifest, content, content.labels)
            if other is not None and (labels != other).any():
                row = int((labels != other).argmax())
                content.faults.append(f"{content.keys[row]}: columns class and label disagree")
        return labels
    if content.labels and any(content.labels):
        return _by_number(manifest, content, content.labels)
    if manifest.arrays and manifest.arrays.label and manifest.archive_path:
        array = npz_array(manifest.archive_path, manifest.arrays.label)
        if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
            raise BadInput(
                f"label array is {array.dtype} {list(array.shape)}, not whole numbers [N]"
            )
        try:
            picked = array[np.array([int(key) for key in content.keys])]
        except (IndexError, ValueError):
            content.faults.append(f"label array holds {len(array)} labels, too few for its rows")
            return None
        return _in_range(manifest, content, picked.astype(np.int64))
    return None


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
