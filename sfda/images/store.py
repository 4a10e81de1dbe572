"""Decoded images in a file that is mapped into memory: of sizes of their own, one after the other,
or some rows of an array. Nothing here holds a copy of them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from mmap import mmap
from pathlib import Path
from typing import Any, BinaryIO, overload

import numpy as np

from sfda.images.intensity_window import Picture
from sfda.images.preprocess import BatchRows, Stack

MARK = b"sfda-ragged-1\n\0\0"  # 16 bytes at the end: what is not whole lacks them


class Ragged:
    """Images uint8 [H, W, C], read-only and on disk. A number gives one, several give a list."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.shapes = _shapes(path)
        ends = self.shapes.prod(1).cumsum()
        self.starts = ends - self.shapes.prod(1)
        self.bytes = np.memmap(path, dtype=np.uint8, mode="r")

    def __len__(self) -> int:
        return len(self.shapes)

    @overload
    def __getitem__(self, rows: int | np.integer[Any]) -> Picture: ...
    @overload
    def __getitem__(self, rows: BatchRows | slice) -> list[Picture]: ...
    def __getitem__(
        self, rows: int | np.integer[Any] | BatchRows | slice
    ) -> Picture | list[Picture]:
        if isinstance(rows, int | np.integer):
            shape = self.shapes[rows]
            return self.bytes[self.starts[rows] :][: shape.prod()].reshape(shape)
        if isinstance(rows, slice):
            rows = np.arange(len(self))[rows]
        return [self[int(row)] for row in rows]

    def take(self, rows: BatchRows | slice) -> Ragged:
        """The images at some places, in their order."""
        images = copy.copy(self)
        images.shapes, images.starts = self.shapes[rows], self.starts[rows]
        return images

    def part(self, first: int, end: int) -> Ragged:
        """The images from one place to before another."""
        return self.take(slice(first, end))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "bytes": None}  # a worker process maps the file itself

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, bytes=np.memmap(state["path"], dtype=np.uint8, mode="r"))


class StackRows:
    """Some rows of images uint8 [N, H, W, C], in an order of their own.

    A number gives one image; several give an array of those, and of no others.
    """

    def __init__(self, whole: Stack, rows: BatchRows) -> None:
        self.whole, self.rows = whole, rows

    @property
    def shape(self) -> tuple[int, ...]:
        """That of all of them in one array."""
        return (len(self.rows), *self.whole.shape[1:])

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, rows: int | np.integer[Any]) -> Picture: ...
    @overload
    def __getitem__(self, rows: BatchRows | slice) -> Stack: ...
    def __getitem__(self, rows: int | np.integer[Any] | BatchRows | slice) -> Picture | Stack:
        return self.whole[self.rows[rows]]

    def part(self, first: int, end: int) -> StackRows:
        """The images from one place to before another."""
        return StackRows(self.whole, self.rows[first:end])

    def __reduce__(self) -> tuple[Callable[..., StackRows], tuple[Any, ...]]:
        if not isinstance(self.whole.base, mmap):  # not all of a file
            return StackRows, (self.whole, self.rows)
        file = Path(getattr(self.whole, "filename"))  # noqa: B009 - numpy's stubs lack it
        return _mapped_rows, (file, self.rows)  # a worker process maps the file itself


def _mapped_rows(file: Path, rows: BatchRows) -> StackRows:
    return StackRows(np.load(file, mmap_mode="r"), rows)


Pictures = Stack | Ragged | StackRows
"""Decoded images: all of one size in one array, or rows of one, or each of a size of its own."""


def images_at(images: Pictures, rows: BatchRows) -> Pictures:
    """The images at some places, in their order, and where they lie: none of them is read."""
    if isinstance(images, Ragged):
        return images.take(rows)
    if isinstance(images, StackRows):
        return StackRows(images.whole, images.rows[rows])
    return StackRows(images, rows)


def images_between(images: Pictures, first: int, end: int) -> Pictures:
    """The images from one place to before another; none of them is read."""
    if (first, end) == (0, len(images)):
        return images
    return images[first:end] if isinstance(images, np.ndarray) else images.part(first, end)


class RaggedWriter:
    """Writes images one after the other, and at the end what their shapes are."""

    def __init__(self, handle: BinaryIO) -> None:
        self.handle = handle
        self.shapes: list[tuple[int, ...]] = []

    def write(self, image: Picture) -> None:
        """Append one image [H, W, C]."""
        self.handle.write(np.ascontiguousarray(image).data)
        self.shapes.append(image.shape)

    def finish(self) -> None:
        """Append the shapes; only then is the file a whole one."""
        self.handle.write(np.array(self.shapes, dtype="<i8").reshape(-1, 3).tobytes())
        self.handle.write(np.array([len(self.shapes)], dtype="<i8").tobytes() + MARK)


def open_ragged(path: Path, count: int) -> Ragged | None:
    """The images at `path` if it is whole and holds so many."""
    try:
        images = Ragged(path)
    except (OSError, ValueError):
        return None
    return images if len(images) == count else None


def _shapes(path: Path) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Shapes [N, 3] out of the end of a file; ValueError if it is not whole."""
    with path.open("rb") as handle:
        size = handle.seek(0, 2)
        foot = len(MARK) + 8
        if size < foot:
            raise ValueError(f"{path} is too short")
        handle.seek(size - foot)
        count, mark = int.from_bytes(handle.read(8), "little"), handle.read()
        if mark != MARK or size < foot + 24 * count:
            raise ValueError(f"{path} is not whole")
        handle.seek(size - foot - 24 * count)
        shapes = np.frombuffer(handle.read(24 * count), dtype="<i8").reshape(count, 3)
    if int(shapes.prod(1).sum()) + 24 * count + foot != size:
        raise ValueError(f"{path} is not whole")
    return shapes.astype(np.int64)
