"""The rows of a split: which images, in which order, by which opaque names, with which labels."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sfda.errors import BadInput, listed
from sfda.formats.readers import Reader
from sfda.images.intensity_window import Picture, Window
from sfda.manifests.annotations import Annotations, read_annotations
from sfda.manifests.digests import array_digest, file_digest, members_digest, row_id
from sfda.manifests.inspection import inspect_split
from sfda.manifests.readers import make_reader
from sfda.manifests.schema import Manifest
from sfda.problems._labels import LabelSet
from sfda.problems.registry import PROBLEMS
from sfda.sandbox.crossing import inside


@dataclass(frozen=True, eq=False)
class Split:
    """One split, verified against its manifest, its images not yet read.

    `row_ids` are digests, since a path may spell the class; `names` are the paths themselves, for
    messages and pictures. `labels` are what people say of every row, in `classes` and in pixels of
    the images as they came; None without labels, or if none may be read. `groups` are volumes or
    videos, `spacings` millimetres between pixels as (row, column) or (slice, row, column), `priors`
    [N, C] the user's shares of classes in the order of `classes`; each None where nothing is said
    of it. `annotations` are of single rows: the one kind that an adaptation may see.
    """

    manifest: str
    problem: str
    name: str
    row_ids: tuple[str, ...]
    names: tuple[str, ...] = field(repr=False)
    classes: tuple[str, ...] | int | None
    reader: Reader = field(repr=False)
    labels: LabelSet | None = field(default=None, repr=False)
    groups: tuple[str, ...] | None = field(default=None, repr=False)
    spacings: tuple[tuple[float, ...], ...] | None = field(default=None, repr=False)
    priors: np.ndarray[Any, np.dtype[np.float32]] | None = field(default=None, repr=False)
    annotations: Annotations | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.row_ids)

    @property
    def labelled(self) -> bool:
        """Whether every row has a label that may be read."""
        return self.labels is not None

    def image(self, row: int, window: Window = None) -> Picture:
        """One image, uint8 [H, W, 3] or [H, W]. Raises BadInput if it is missing or corrupt.

        `window` says how other intensities become 8 bits, as `InputSpec.window` does.
        """
        return self.reader.image(row, window)


def read_split(manifest: Manifest, split: str) -> Split:
    """The rows of `split`, once its row file's digest, count and class names are verified.

    Raises BadInput if there is no such split, or naming all that is wrong with it.
    """
    content = inspect_split(manifest, split)
    if content.faults:
        raise BadInput(f"{manifest.path}: " + listed(content.faults, "; "))
    problem = PROBLEMS[manifest.problem]
    images = make_reader(manifest, content.keys)
    names = tuple(map(manifest.row_name, content.keys))
    return Split(
        manifest=manifest.name,
        problem=manifest.problem,
        name=split,
        row_ids=tuple(map(row_id, names)),
        names=names,
        classes=manifest.classes,
        reader=problem.reader(manifest, content, images),
        labels=problem.labels_of(manifest, content, images) if manifest.labelled else None,
        groups=content.more.groups,
        spacings=content.more.spacings,
        priors=content.more.priors,
        annotations=split_annotations(manifest, split, content.keys, images),
    )


def split_annotations(
    manifest: Manifest, split: str, keys: Sequence[str], images: Reader
) -> Annotations | None:
    """What people answered to rows of a split. Raises BadInput naming all that is wrong."""
    spec = manifest.splits[split].answers
    return read_annotations(manifest, spec, keys, images) if spec else None


def unlabelled_digest(manifest: Manifest, split: str) -> str:
    """sha256 of all that an adaptation can see: rows in order, bytes of the images, class names.

    Labels and masks have no part in it, nor has the name or place of the manifest. Groups and
    priors have: methods use them. Raises BadInput.
    """
    seen = read_split(manifest.unlabelled(), split)
    digest = hashlib.sha256()
    for part in (repr(manifest.classes), *seen.row_ids):
        digest.update(f"{part}\n".encode())
    digest.update(PROBLEMS[manifest.problem].seen_facts(seen).encode())
    digest.update(_content_digest(manifest, seen))
    return digest.hexdigest()


def _content_digest(manifest: Manifest, seen: Split) -> bytes:
    """Digests of the images, and of nothing that labels are part of."""
    path = manifest.archive_path
    if path and manifest.arrays:  # labels lie in the same file: its own digest would change so
        return array_digest(path, manifest.arrays.image).encode()
    if path and not PROBLEMS[manifest.problem].labels_are_files:
        return file_digest(path).encode()
    files = _image_files(manifest, seen)
    if path:
        return members_digest(path, files).encode()
    return "".join(_content(manifest.location, name) for name in files).encode()


def _image_files(manifest: Manifest, seen: Split) -> tuple[str, ...]:
    """Each file that holds an image of the split, once, as it is named below the root."""
    return tuple(dict.fromkeys(map(PROBLEMS[manifest.problem].row_file, seen.names)))


def seen_files(manifest: Manifest, split: str) -> tuple[list[Path], list[Path]]:
    """All files that an adaptation to `split` has to read: those of the manifest, and the images.

    Files of masks are none of them, nor those of other splits. Raises BadInput.
    """
    seen = read_split(manifest.unlabelled(), split)
    spec = manifest.splits[split]
    own = [manifest.path, manifest.rows_path(spec), manifest.archive_path]
    if spec.answers and seen.annotations:
        table = manifest.path.parent / spec.answers.rows
        own.append(table)
        for file in seen.annotations.files:
            inside(table.parent, file.relative_to(table.parent).as_posix())
        own.extend(seen.annotations.files)
    images = [] if manifest.archive_path else _image_files(manifest, seen)
    for name in images:
        inside(manifest.location, name)
    return [path for path in own if path], [manifest.location / name for name in images]


def _content(folder: Path, name: str) -> str:
    path = folder / name
    try:
        inside(folder, name)
        return file_digest(path)
    except FileNotFoundError:
        raise BadInput(f"image {path} is missing") from None
    except OSError as error:
        raise BadInput(f"image {path} cannot be read: {error}") from None
