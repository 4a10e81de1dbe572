"""The rows of a split: which images, in which order, by which opaque names, with which labels."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sfda.errors import BadInput, listed
from sfda.formats.coco import BoxTable, box_table, document_faults, images_of, read_coco
from sfda.formats.keypoints import CropReader, Person, file_of, joints_of, people_of
from sfda.formats.masks import MaskReader
from sfda.formats.readers import (
    FileReader,
    Files,
    Folder,
    NpzReader,
    Reader,
    Zip,
    npz_array,
    npz_count,
    open_zip,
)
from sfda.formats.volumes import slice_of
from sfda.images.intensity_window import Picture, Window
from sfda.manifests.annotations import Answers, read_answers
from sfda.manifests.columns import add_columns, bad_paths, slice_faults
from sfda.manifests.digests import array_digest, file_digest, members_digest, row_id
from sfda.manifests.labels import Found, Labels, labels_of
from sfda.manifests.schema import REMAKE, Manifest, SplitSpec
from sfda.manifests.table import read_csv


@dataclass(frozen=True, eq=False)
class Split:
    """One split, verified against its manifest, its images not yet read.

    `row_ids` are digests, since a path may spell the class; `names` are the paths themselves, for
    messages and pictures. `labels` index `classes`; None without labels, or if none may be read.
    So it is with `masks`, and with `boxes`, in pixels of the images as they came. `groups` are
    volumes or videos, `spacings` millimetres between pixels as (row, column) or (slice, row,
    column), `priors` [N, C] the user's shares of classes in the order of `classes`; each None where
    nothing is said of it.
    """

    manifest: str
    name: str
    row_ids: tuple[str, ...]
    names: tuple[str, ...] = field(repr=False)
    labels: Labels | None = field(repr=False)
    classes: tuple[str, ...] | int | None
    reader: Reader = field(repr=False)
    masks: MaskReader | None = field(default=None, repr=False)
    groups: tuple[str, ...] | None = field(default=None, repr=False)
    spacings: tuple[tuple[float, ...], ...] | None = field(default=None, repr=False)
    priors: np.ndarray[Any, np.dtype[np.float32]] | None = field(default=None, repr=False)
    boxes: BoxTable | None = field(default=None, repr=False)
    people: tuple[Person, ...] | None = field(default=None, repr=False)
    answers: Answers | None = field(default=None, repr=False)  # of single rows, by people

    def __len__(self) -> int:
        return len(self.row_ids)

    @property
    def labelled(self) -> bool:
        """Whether every row has a label, a mask, boxes or joints that may be read."""
        every = (self.labels, self.masks, self.boxes, self.people)
        return any(part is not None for part in every)

    def image(self, row: int, window: Window = None) -> Picture:
        """One image, uint8 [H, W, 3] or [H, W]. Raises BadInput if it is missing or corrupt.

        `window` says how other intensities become 8 bits, as `InputSpec.window` does.
        """
        return self.reader.image(row, window)


def read_split(manifest: Manifest, split: str) -> Split:
    """The rows of `split`, once its row file's digest, count and class names are verified.

    Raises BadInput if there is no such split, or naming all that is wrong with it.
    """
    found, labels = inspect_split(manifest, split)
    if found.faults:
        raise BadInput(f"{manifest.path}: " + listed(found.faults, "; "))
    images = make_reader(manifest, found.keys)
    reader = images
    if manifest.problem == "pose":
        places = found.places or [None] * len(found.keys)
        reader = CropReader(images, tuple(places), manifest.padding)
    return Split(
        manifest=manifest.name,
        name=split,
        row_ids=tuple(row_id(name) for name in _names(manifest, found.keys)),
        names=tuple(_names(manifest, found.keys)),
        labels=labels,
        classes=manifest.classes,
        reader=reader,
        masks=mask_reader(manifest, found, images),
        groups=found.more.groups,
        spacings=found.more.spacings,
        priors=found.more.priors,
        boxes=found.boxes,
        people=None if found.people is None else tuple(found.people),
        answers=answers_of(manifest, split, found.keys, images),
    )


def answers_of(
    manifest: Manifest, split: str, keys: Sequence[str], images: Reader
) -> Answers | None:
    """What people answered to rows of a split. Raises BadInput naming all that is wrong."""
    spec = manifest.splits[split].answers
    return read_answers(manifest, spec, keys, images) if spec else None


def unlabelled_digest(manifest: Manifest, split: str) -> str:
    """sha256 of all that an adaptation can see: rows in order, bytes of the images, class names.

    Labels and masks have no part in it, nor has the name or place of the manifest. Groups and
    priors have: methods use them. Raises BadInput.
    """
    seen = read_split(manifest.unlabelled(), split)
    digest = hashlib.sha256()
    for part in (repr(manifest.classes), *seen.row_ids):
        digest.update(f"{part}\n".encode())
    if manifest.problem == "segmentation":
        priors = None if seen.priors is None else seen.priors.tolist()
        digest.update(f"{seen.groups} {priors}\n".encode())
    if isinstance(seen.reader, CropReader):  # where a person is, is no label
        digest.update(f"{seen.reader.boxes} {seen.reader.padding}\n".encode())
    digest.update(_content_digest(manifest, seen))
    return digest.hexdigest()


def _content_digest(manifest: Manifest, seen: Split) -> bytes:
    """Digests of the images, and of nothing that masks are part of."""
    path = manifest.archive_path
    if path and manifest.arrays:  # labels lie in the same file: its own digest would change so
        return array_digest(path, manifest.arrays.image).encode()
    if path and manifest.problem != "segmentation":
        return file_digest(path).encode()
    files = _image_files(manifest, seen)
    if path:
        return members_digest(path, files).encode()
    return "".join(_content(manifest.location / name) for name in files).encode()


def _image_files(manifest: Manifest, seen: Split) -> tuple[str, ...]:
    """Each file that holds an image of the split, once, as it is named below the root."""
    if manifest.problem == "pose":
        return tuple(dict.fromkeys(file_of(name) for name in seen.names))
    parts = ((name, slice_of(name)) for name in seen.names)
    return tuple(dict.fromkeys(part.file if part else name for name, part in parts))


def seen_files(manifest: Manifest, split: str) -> tuple[list[Path], list[Path]]:
    """All files that an adaptation to `split` has to read: those of the manifest, and the images.

    Files of masks are none of them, nor those of other splits. Raises BadInput.
    """
    seen = read_split(manifest.unlabelled(), split)
    spec = manifest.splits[split]
    own = [manifest.path, manifest.rows_path(spec), manifest.archive_path]
    if spec.answers and seen.answers:
        answers = manifest.path.parent / spec.answers.rows
        own.append(answers)
        if seen.answers.masks:
            own.extend(answers.parent / row["mask"] for row in read_csv(answers)[0])
    images = [] if manifest.archive_path else _image_files(manifest, seen)
    return [path for path in own if path], [manifest.location / name for name in images]


def inspect_split(manifest: Manifest, split: str) -> tuple[Found, Labels | None]:
    """Rows and labels of a split, as far as they can be had, with every fault that is met."""
    if split not in manifest.splits:
        raise BadInput(
            f"{manifest.path} has no split '{split}'; there are {', '.join(manifest.splits)}"
        )
    spec = manifest.splits[split]
    try:
        found = _rows(manifest, spec)
        images = manifest.problem != "segmentation"  # the whole image has a label
        labels = labels_of(manifest, found) if manifest.labelled and found.keys and images else None
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


def _rows(manifest: Manifest, spec: SplitSpec) -> Found:
    if not spec.rows:
        return _from_arrays(manifest, spec)
    path = manifest.rows_path(spec)
    if path is None or not path.is_file():
        raise BadInput(f"row file {path} is missing; {REMAKE}")
    found = Found()
    if file_digest(path) != spec.sha256:
        found.faults.append(
            f"row file {path} is not the one this manifest was made with (other sha256); {REMAKE}"
        )
    read = _from_coco if path.suffix.lower() == ".json" else _from_csv
    return read(manifest, spec, path, found)


def _from_coco(manifest: Manifest, spec: SplitSpec, path: Path, found: Found) -> Found:
    """Images by file name, and their boxes where labels may be read."""
    document = read_coco(path)
    images = images_of(document, spec.where)
    if manifest.problem == "pose":
        found.keys, found.places, entries, faults = people_of(document, images)
        found.faults += document_faults(document) + faults + _odd_keys(manifest, found.keys)
        if manifest.labelled and all("keypoints" in entry for entry in entries):
            found.people, faults = joints_of(document, entries, found.places, manifest.classes)
            found.faults += faults
        return found
    found.keys = [str(image["file_name"]) for image in images]
    found.faults += document_faults(document) + _odd_keys(manifest, found.keys)
    known = all(image.get("labelled", True) for image in images)
    if manifest.labelled and known and document["annotations"]:
        found.boxes, faults = box_table(document, images, manifest.classes)
        found.faults += faults
    return found


def _from_csv(manifest: Manifest, spec: SplitSpec, path: Path, found: Found) -> Found:
    key = "index" if manifest.arrays else "file"
    rows, header = read_csv(path)
    needed = [key] + (["split"] if spec.where is not None else [])
    missing = [column for column in needed if column not in header]
    if missing:
        raise BadInput(f"row file {path} has no column '{missing[0]}', only {', '.join(header)}")
    if spec.where is not None:
        rows = [row for row in rows if row["split"] == spec.where]
    found.keys = [_plain(row[key]) if manifest.arrays else row[key] for row in rows]
    odd = _odd_keys(manifest, found.keys)
    found.faults += odd
    if manifest.labelled:  # else the label columns are not even looked at
        found.classes = [row["class"] for row in rows] if "class" in header else None
        found.labels = [row["label"] for row in rows] if "label" in header else None
    if manifest.problem == "segmentation" and not (manifest.arrays and odd):
        add_columns(manifest, found, rows, header)
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
    found = Found(keys=[str(i) for i in indices])
    if manifest.problem == "segmentation":
        add_columns(manifest, found, None, ())
    return found


def _odd_keys(manifest: Manifest, keys: Sequence[str]) -> list[str]:
    """Faults of the `index` or `file` column; a path that leaves the data folder is one."""
    if manifest.arrays is None:
        odd = bad_paths(keys)
        return ([f"not a path below the root: {listed(odd)}"] if odd else []) + slice_faults(keys)
    assert manifest.archive_path is not None
    size = npz_count(manifest.archive_path, manifest.arrays.image)
    odd = [key for key in keys if not key.isdecimal() or int(key) >= size]
    return [f"index not in 0..{size - 1}: {listed(odd)}"] if odd else []


def make_reader(manifest: Manifest, keys: Sequence[str]) -> Reader:
    """The images of the rows `keys`. Raises BadInput if the folder or the zip is missing."""
    path = manifest.archive_path
    if manifest.arrays and path:
        return NpzReader(path, manifest.arrays.image, _indices(keys))
    names = tuple(map(file_of, keys)) if manifest.problem == "pose" else tuple(keys)
    return FileReader(files_of(manifest), names)


def files_of(manifest: Manifest) -> Files:
    """Where the manifest's files lie. Raises BadInput if the folder or the zip is missing."""
    path = manifest.archive_path
    if path:
        open_zip(path).close()
        return Zip(path)
    if not manifest.location.is_dir():
        raise BadInput(
            f"{manifest.path}: folder {manifest.location} is missing; "
            "set SFDA_DATA to the folder that holds your data sets"
        )
    return Folder(manifest.location)


def mask_reader(manifest: Manifest, found: Found, images: Reader) -> MaskReader | None:
    """The masks of the rows that were found; None where there are none or none may be read."""
    if not found.masks or not manifest.labelled:
        return None
    stored: Reader
    if manifest.arrays and manifest.arrays.mask and manifest.archive_path:
        indices = _indices(found.masks)
        stored = NpzReader(manifest.archive_path, manifest.arrays.mask, indices)
    else:
        stored = FileReader(files_of(manifest), tuple(found.masks), "mask")
    return MaskReader(stored, images, manifest.mask_values, manifest.ignore)


def _indices(keys: Sequence[str]) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.array([int(key) for key in keys], dtype=np.int64)


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
