"""The rows of a split: which images, in which order, by which opaque names, with which labels."""

from __future__ import annotations

import hashlib
import os
import stat
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from sfda.errors import BadInput, listed
from sfda.formats.readers import Reader
from sfda.images.intensity_window import Picture, Window
from sfda.manifests.annotations import Annotations, read_annotations
from sfda.manifests.digests import (
    archive_stamp,
    array_digest,
    file_digest,
    file_digests,
    members_digest,
    row_id,
)
from sfda.manifests.inspection import inspect_split
from sfda.manifests.labels import Indices
from sfda.manifests.readers import make_reader
from sfda.manifests.schema import Manifest
from sfda.problems._labels import LabelSet
from sfda.problems.registry import PROBLEMS
from sfda.sandbox.crossing import inside
from sfda.state_folder import Stamp, as_stamp

OfRow = TypeVar("OfRow")  # what is said of each row


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

    def take(self, rows: Indices) -> Split:
        """Some of its rows, in this order, as a split of their own."""

        def some(values: tuple[OfRow, ...]) -> tuple[OfRow, ...]:
            return tuple(values[row] for row in rows.tolist())

        return replace(
            self,
            row_ids=some(self.row_ids),
            names=some(self.names),
            reader=self.reader.take(rows),
            labels=None if self.labels is None else self.labels.take(rows),
            groups=None if self.groups is None else some(self.groups),
            spacings=None if self.spacings is None else some(self.spacings),
            priors=None if self.priors is None else self.priors[rows],
            annotations=self.annotations and self.annotations.among(rows),
        )

    def unnamed(self) -> Split:
        """The same rows and groups, called by numbers: a name, and a digest of one that can be
        guessed, may tell a class.
        """
        rows, groups = tuple(map(str, range(len(self)))), self.groups
        if groups is not None:
            number_of = {name: str(number) for number, name in enumerate(dict.fromkeys(groups))}
            groups = tuple(number_of[name] for name in groups)
        return replace(self, row_ids=rows, names=rows, groups=groups)


def read_split(manifest: Manifest, split: str) -> Split:
    """The rows of `split`, once its row file's digest, count and class names are verified, but for
    those that the manifest leaves out.

    Raises BadInput if there is no such split, or naming all that is wrong with it.
    """
    content = inspect_split(manifest, split)
    if content.faults:
        raise BadInput(f"{manifest.path}: " + listed(content.faults, "; "))
    problem = PROBLEMS[manifest.problem]
    images = make_reader(manifest, content.keys)
    names = tuple(map(manifest.row_name, content.keys))
    whole = Split(
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
    if manifest.left_out.isdisjoint(names):
        return whole
    rows = np.array([n for n, name in enumerate(names) if name not in manifest.left_out], np.int64)
    if not len(rows):
        raise BadInput(f"{manifest.path}: no image of split '{split}' can be read")
    return whole.take(rows)


def split_annotations(
    manifest: Manifest, split: str, keys: Sequence[str], images: Reader
) -> Annotations | None:
    """What people answered to rows of a split. Raises BadInput naming all that is wrong."""
    spec = manifest.splits[split].answers
    return read_annotations(manifest, spec, keys, images) if spec else None


class Sight(NamedTuple):
    """One look at all of a split that an adaptation can see.

    `seen` is the digest of what was seen, `stamps` one of sizes and times of the files that hold
    it: as long as that is the same, nobody has to read them again. `files` are the first 64 bits of
    the digest of each image file, in order; of an archive it is one of all that is in it.
    """

    seen: str
    stamps: str
    files: np.ndarray[Any, np.dtype[np.uint64]]


def unlabelled_digest(manifest: Manifest, split: str) -> str:
    """sha256 of all that an adaptation can see: rows in order, bytes of the images, class names.

    Labels and masks have no part in it, nor has the name or place of the manifest. Groups and
    priors have: methods use them. Raises BadInput.
    """
    return look_at(manifest, read_split(manifest.unlabelled(), split)).seen


def look_at(manifest: Manifest, rows: Split) -> Sight:
    """What an adaptation can see of rows; labels have no part in it. Images are read that have
    changed since they ever were. Raises BadInput.
    """
    lines = "\n".join((repr(manifest.classes), *rows.row_ids))
    digest = hashlib.sha256(f"{lines}\n".encode())
    del lines  # of a million rows 17 MB
    digest.update(PROBLEMS[manifest.problem].seen_facts(rows).encode())
    stamps, files = hashlib.sha256(), array("Q")
    for text in _content_digests(manifest, rows, _noted(stamped_files(manifest, rows), stamps)):
        digest.update(text.encode())
        files.append(int(text[:16], 16))
    return Sight(digest.hexdigest(), stamps.hexdigest(), np.array(files, dtype=np.uint64))


def stamps_digest(files: Iterable[tuple[str, Stamp]]) -> str:
    """sha256 of the names, sizes, times of writing and inodes of files, in order.

    A new link to a file or another owner changes nothing of what is in it.
    """
    stamps = hashlib.sha256()
    for _ in _noted(files, stamps):
        pass
    return stamps.hexdigest()


def _noted(
    files: Iterable[tuple[str, Stamp]], stamps: hashlib._Hash
) -> Iterator[tuple[str, Stamp]]:
    """The same files, which the digest `stamps` is told of as they pass."""
    for path, stamp in files:
        size, modified, _, inode = stamp
        stamps.update(f"{path} {size} {modified} {inode}\n".encode(errors="surrogateescape"))
        yield path, stamp


def stamped_files(manifest: Manifest, rows: Split) -> Iterator[tuple[str, Stamp]]:
    """The files that hold the images of a split, or its archive, by absolute path as they are now.

    Raises BadInput where one is missing or leads out of the folder.
    """
    if path := manifest.archive_path:
        yield os.path.abspath(path), archive_stamp(path)
        return
    folder, names = manifest.location, row_files(manifest, rows)
    prefix, top = os.path.abspath(folder).rstrip("/"), os.path.realpath(folder)
    parts = {name.rpartition("/")[0] for name in names}
    within = {part for part in parts if _leads_below(top, folder / part)}
    for name in names:
        file = f"{prefix}/{name}"
        try:
            status = os.lstat(file)
            if stat.S_ISLNK(status.st_mode) or name.rpartition("/")[0] not in within:
                inside(folder, name)
                status = os.stat(file)
        except FileNotFoundError:
            raise BadInput(f"image {folder / name} is missing") from None
        except OSError as error:
            raise BadInput(f"image {folder / name} cannot be read: {error}") from None
        yield file, as_stamp(status)


def _leads_below(top: str, folder: Path) -> bool:
    """Whether a folder really lies in another: files in it that are no links do too."""
    return f"{os.path.realpath(folder)}/".startswith(f"{top.rstrip('/')}/")


def _content_digests(
    manifest: Manifest, rows: Split, files: Iterable[tuple[str, Stamp]]
) -> Iterator[str]:
    """Digests of the images, and of nothing that labels are part of."""
    path = manifest.archive_path
    if path is None:
        try:
            yield from file_digests(files)
        except FileNotFoundError as error:
            raise BadInput(f"image {error.filename} is missing") from None
        except OSError as error:
            raise BadInput(f"image {error.filename} cannot be read: {error}") from None
        return
    list(files)  # the archive's stamp is of before it is read
    if manifest.arrays:  # labels lie in the same file: its own digest would change so
        yield array_digest(path, manifest.arrays.image)
    elif PROBLEMS[manifest.problem].labels_are_files:
        yield members_digest(path, row_files(manifest, rows))
    else:
        yield file_digest(path)


def row_files(manifest: Manifest, seen: Split) -> tuple[str, ...]:
    """Each file that holds an image of the split, once, as it is named below the root."""
    files = tuple(map(PROBLEMS[manifest.problem].row_file, seen.names))
    if files == seen.names:  # a row each
        return seen.names
    return tuple(dict.fromkeys(files))
