"""The rows of a split: which images, in which order, by which opaque names, with which labels."""

from __future__ import annotations

import csv
import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np

from sfda.data.digests import array_digest, file_digest, row_id
from sfda.data.labels import Found, Labels, labels_of, listed
from sfda.data.readers import (
    FolderReader,
    NpzReader,
    Picture,
    Reader,
    ZipReader,
    npz_array,
    npz_count,
    open_zip,
)
from sfda.data.schema import REMAKE, Manifest, SplitSpec
from sfda.errors import BadInput


@dataclass(frozen=True, eq=False)
class Split:
    """One split, verified against its manifest, its images not yet read.

    `row_ids` are digests, since a path may spell the class; `names` are the paths themselves, for
    messages and pictures. `labels` index `classes`; None without labels, or if none may be read.
    """

    manifest: str
    name: str
    row_ids: tuple[str, ...]
    names: tuple[str, ...] = field(repr=False)
    labels: Labels | None = field(repr=False)
    classes: tuple[str, ...] | int | None
    reader: Reader = field(repr=False)

    def __len__(self) -> int:
        return len(self.row_ids)

    def image(self, row: int) -> Picture:
        """One image, uint8 [H, W, 3] or [H, W]. Raises BadInput if it is missing or corrupt."""
        return self.reader.image(row)


def read_split(manifest: Manifest, split: str) -> Split:
    """The rows of `split`, once its row file's digest, count and class names are verified.

    Raises BadInput if there is no such split, or naming all that is wrong with it.
    """
    found, labels = inspect_split(manifest, split)
    if found.faults:
        raise BadInput(f"{manifest.path}: " + listed(found.faults, "; "))
    return Split(
        manifest=manifest.name,
        name=split,
        row_ids=tuple(row_id(name) for name in _names(manifest, found.keys)),
        names=tuple(_names(manifest, found.keys)),
        labels=labels,
        classes=manifest.classes,
        reader=_reader(manifest, found.keys),
    )


def unlabelled_digest(manifest: Manifest, split: str) -> str:
    """sha256 of all that an adaptation can see: rows in order, bytes of the images, class names.

    Labels have no part in it, nor has the name or place of the manifest. Raises BadInput.
    """
    seen = read_split(manifest.unlabelled(), split)
    digest = hashlib.sha256()
    for part in (repr(manifest.classes), *seen.row_ids):
        digest.update(f"{part}\n".encode())
    path = manifest.archive_path
    if path is None:
        for name in seen.names:
            digest.update(_content(manifest.location / name).encode())
    elif manifest.arrays is None:
        digest.update(file_digest(path).encode())
    else:  # labels lie in the same file: its own digest would change with them
        digest.update(array_digest(path, manifest.arrays.image).encode())
    return digest.hexdigest()


def inspect_split(manifest: Manifest, split: str) -> tuple[Found, Labels | None]:
    """Rows and labels of a split, as far as they can be had, with every fault that is met."""
    if split not in manifest.splits:
        raise BadInput(
            f"{manifest.path} has no split '{split}'; there are {', '.join(manifest.splits)}"
        )
    spec = manifest.splits[split]
    try:
        found = _from_csv(manifest, spec) if spec.rows else _from_arrays(manifest, spec)
        labels = labels_of(manifest, found) if manifest.labelled and found.keys else None
    except BadInput as error:
        return Found(faults=[f"split '{split}': {error}"]), None
    twice = _twice(found.keys)
    if twice:
        found.faults.append(f"named twice: {listed(twice)}")
    if not found.keys and not found.faults:
        found.faults.append("it has no rows, so there is nothing to read")
    elif len(found.keys) != spec.count:
        found.faults.append(f"{len(found.keys)} rows, but the manifest counts {spec.count}")
    found.faults = [f"split '{split}': {fault}" for fault in found.faults]
    return found, labels


def _from_csv(manifest: Manifest, spec: SplitSpec) -> Found:
    path = manifest.rows_path(spec)
    if path is None or not path.is_file():
        raise BadInput(f"row file {path} is missing; {REMAKE}")
    found = Found()
    if file_digest(path) != spec.sha256:
        found.faults.append(
            f"row file {path} is not the one this manifest was made with (other sha256); {REMAKE}"
        )
    key = "index" if manifest.arrays else "file"
    rows, header = read_csv(path)
    needed = [key] + (["split"] if spec.where is not None else [])
    missing = [column for column in needed if column not in header]
    if missing:
        raise BadInput(f"row file {path} has no column '{missing[0]}', only {', '.join(header)}")
    if spec.where is not None:
        rows = [row for row in rows if row["split"] == spec.where]
    found.keys = [_plain(row[key]) if manifest.arrays else row[key] for row in rows]
    found.faults += _odd_keys(manifest, found.keys)
    if manifest.labelled:  # else the label columns are not even looked at
        found.classes = [row["class"] for row in rows] if "class" in header else None
        found.labels = [row["label"] for row in rows] if "label" in header else None
    return found


def _from_arrays(manifest: Manifest, spec: SplitSpec) -> Found:
    path, arrays = manifest.archive_path, manifest.arrays
    assert path is not None  # the schema demands both where `rows` is absent
    assert arrays is not None
    if spec.equals is None:
        indices = np.arange(npz_count(path, arrays.image))
    else:
        assert arrays.split is not None
        indices = np.flatnonzero(npz_array(path, arrays.split) == spec.equals)
    return Found(keys=[str(i) for i in indices])


def _odd_keys(manifest: Manifest, keys: Sequence[str]) -> list[str]:
    """Faults of the `index` or `file` column; a path that leaves the data folder is one."""
    if manifest.arrays is None:
        odd = [
            key
            for key in keys
            if not key or PurePosixPath(key).is_absolute() or ".." in PurePosixPath(key).parts
        ]
        return [f"not a path below the root: {listed(odd)}"] if odd else []
    assert manifest.archive_path is not None
    size = npz_count(manifest.archive_path, manifest.arrays.image)
    odd = [key for key in keys if not key.isdecimal() or int(key) >= size]
    return [f"index not in 0..{size - 1}: {listed(odd)}"] if odd else []


def _reader(manifest: Manifest, keys: Sequence[str]) -> Reader:
    path = manifest.archive_path
    if path is None:
        if not manifest.location.is_dir():
            raise BadInput(
                f"{manifest.path}: folder {manifest.location} is missing; "
                "set SFDA_DATA to the folder that holds your data sets"
            )
        return FolderReader(manifest.location, tuple(keys))
    if manifest.arrays is None:
        open_zip(path).close()
        return ZipReader(path, tuple(keys))
    indices = np.array([int(key) for key in keys], dtype=np.int64)
    return NpzReader(path, manifest.arrays.image, indices)


def read_csv(path: Path) -> tuple[list[dict[str, str]], list[str]]:
    """Rows and column names of a CSV with a header. Raises BadInput if it is not one."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as handle:  # Excel writes a mark first
            reader = csv.DictReader(handle, restval="")
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadInput(f"{path} cannot be read as CSV: {error}") from None
    if any(None in row for row in rows):
        raise BadInput(f"{path} has rows with more cells than its header")
    return rows, list(reader.fieldnames or ())


def _content(path: Path) -> str:
    try:
        return file_digest(path)
    except FileNotFoundError:
        raise BadInput(f"image {path} is missing") from None
    except OSError as error:
        raise BadInput(f"image {path} cannot be read: {error}") from None


def _names(manifest: Manifest, keys: Sequence[str]) -> list[str]:
    return [f"{manifest.arrays.image}:{key}" for key in keys] if manifest.arrays else list(keys)


def _plain(index: str) -> str:
    return str(int(index)) if index.isdecimal() else index


def _twice(keys: Sequence[str]) -> list[str]:
    return sorted(key for key, times in Counter(keys).items() if times > 1)
