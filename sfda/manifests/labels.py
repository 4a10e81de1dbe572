"""What rows say of their classes, as indices into the manifest's list."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from sfda.errors import BadInput, listed
from sfda.formats.readers import npz_array
from sfda.manifests.schema import Manifest

if TYPE_CHECKING:  # it lists its faults with what stands here
    from sfda.formats.coco import BoxTable

Labels = np.ndarray[Any, np.dtype[np.int64]]


class Columns(NamedTuple):
    """What a split says of its rows besides images and labels; each for all rows or None."""

    groups: tuple[str, ...] | None = None  # the volume, or video, of each row
    spacings: tuple[tuple[float, ...], ...] | None = None  # mm: [slice,] row, column
    priors: np.ndarray[Any, np.dtype[np.float32]] | None = None  # [N, C], from the user


@dataclass
class Found:
    """What lies behind a split's entry in the manifest, and every fault that was met on the way."""

    keys: list[str] = field(default_factory=list)  # files, or indices as text
    classes: list[str] | None = None
    labels: list[str] | None = None
    masks: list[str] | None = None  # files; indices as text if they lie in an npz
    boxes: BoxTable | None = None
    places: list[Any] | None = None  # pose: the box of each person, or None
    people: list[Any] | None = None  # pose: their joints
    more: Columns = field(default_factory=Columns)
    faults: list[str] = field(default_factory=list)


def labels_of(manifest: Manifest, found: Found) -> Labels | None:
    """Labels as indices into the manifest's classes; what does not fit becomes a fault."""
    given = found.classes if any(found.classes or ()) else None
    if given is not None:
        labels = _by_name(manifest, found, given)
        if labels is not None and found.labels and any(found.labels):
            other = _by_number(manifest, found, found.labels)
            if other is not None and (labels != other).any():
                row = int((labels != other).argmax())
                found.faults.append(f"{found.keys[row]}: columns class and label disagree")
        return labels
    if found.labels and any(found.labels):
        return _by_number(manifest, found, found.labels)
    if manifest.arrays and manifest.arrays.label and manifest.archive_path:
        array = npz_array(manifest.archive_path, manifest.arrays.label)
        if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
            raise BadInput(
                f"label array is {array.dtype} {list(array.shape)}, not whole numbers [N]"
            )
        try:
            picked = array[np.array([int(key) for key in found.keys])]
        except (IndexError, ValueError):
            found.faults.append(f"label array holds {len(array)} labels, too few for its rows")
            return None
        return _in_range(manifest, found, picked.astype(np.int64))
    return None


def _by_name(manifest: Manifest, found: Found, given: Sequence[str]) -> Labels | None:
    if not isinstance(manifest.classes, tuple):
        found.faults.append("rows name classes, but the manifest has no list `classes`")
        return None
    place = {name: i for i, name in enumerate(manifest.classes)}
    bad = [
        f"{key} ({name or 'none'})"
        for key, name in zip(found.keys, given, strict=True)
        if name not in place
    ]
    if bad:
        found.faults.append(f"class not among the manifest's `classes`: {listed(bad)}")
        return None
    return np.array([place[name] for name in given], dtype=np.int64)


def _by_number(manifest: Manifest, found: Found, given: Sequence[str]) -> Labels | None:
    bad = [
        f"{key} ({text or 'none'})"
        for key, text in zip(found.keys, given, strict=True)
        if not text.isdecimal() or len(text) > 9
    ]
    if bad:
        found.faults.append(f"label is not a whole number: {listed(bad)}")
        return None
    return _in_range(manifest, found, np.array([int(text) for text in given], dtype=np.int64))


def _in_range(manifest: Manifest, found: Found, labels: Labels) -> Labels | None:
    if manifest.num_classes is None:
        found.faults.append("there are labels, but the manifest says nothing of `classes`")
        return None
    bad = np.flatnonzero((labels < 0) | (labels >= manifest.num_classes))
    if len(bad):
        rows = [f"{found.keys[i]} ({labels[i]})" for i in bad]
        found.faults.append(f"label not in 0..{manifest.num_classes - 1}: {listed(rows)}")
        return None
    return labels
