"""Images out of a folder, a zip or an npz, each read in place."""

from __future__ import annotations

import functools
import math
import os
import threading
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from PIL import Image, UnidentifiedImageError

from sfda.bounds.files import DAMAGED, claim_fault, read_member, read_opened, zip_opened
from sfda.bounds.limits import PICTURE_BYTES
from sfda.documents import cut_off
from sfda.errors import BadInput
from sfda.formats.images import decode_bytes, raw_bytes, size_of_bytes, value_bytes
from sfda.formats.volumes import FileAddress, Grid, grid, slice_of, volume
from sfda.images.intensity_window import Picture, Raw, Window, to_bytes
from sfda.sandbox.crossing import inside, open_inside

# all that PIL, nibabel, zipfile and numpy raise on files that are not what they claim
BROKEN = (*DAMAGED, SyntaxError, Image.DecompressionBombError)
Out = TypeVar("Out")
Indices = np.ndarray[Any, np.dtype[np.int64]]


class Reader(Protocol):
    """Where the images, or the masks, of a split come from. All raise BadInput naming the file."""

    def image(self, row: int, window: Window = None) -> Picture:
        """The image of one row, its intensities made 8 bits by `window`."""
        ...

    def raw(self, row: int) -> Raw:
        """The intensities of one row as they are, [H, W] or [H, W, 3] of any type."""
        ...

    def values(self, row: int) -> Raw:
        """Pixel values of one row: of a palette the indices, not the colours."""
        ...

    def size(self, row: int) -> tuple[int, int]:
        """(height, width) of one row, by its header alone."""
        ...

    def grid(self, row: int) -> Grid | None:
        """The voxels of the volume that one row is a slice of; None for a picture."""
        ...

    def name_of(self, row: int) -> str:
        """What to call one row in a message."""
        ...

    def take(self, rows: Indices) -> Reader:
        """Some of its rows, in this order, as rows of their own."""
        ...


class Files(Protocol):
    """Where files lie."""

    def read(self, name: str) -> bytes:
        """The bytes of one. Raises KeyError or FileNotFoundError if it is not there."""
        ...

    def address(self, name: str) -> FileAddress:
        """Its address, as a person names it."""
        ...

    def checked(self, name: str) -> FileAddress:
        """Its address, to be opened. Raises BadInput if it lies elsewhere."""
        ...


@dataclass(frozen=True)
class Folder:
    """Files below a folder: a link that leads out of it is refused."""

    root: Path

    def read(self, name: str) -> bytes:
        """The bytes of one. Raises FileNotFoundError, or BadInput if it lies elsewhere."""
        with os.fdopen(open_inside(self.root, name), "rb") as file:
            return read_opened(file, PICTURE_BYTES)

    def address(self, name: str) -> FileAddress:
        """Its address, as a person names it."""
        return FileAddress(self.root / name)

    def checked(self, name: str) -> FileAddress:
        """Its address, to be opened. Raises BadInput if it lies elsewhere."""
        inside(self.root, name)
        return self.address(name)


@dataclass(frozen=True)
class Zip:
    """Files in a zip, which is never unpacked."""

    path: Path
    _local: threading.local = field(default_factory=threading.local, repr=False, compare=False)

    def read(self, name: str) -> bytes:
        """The bytes of one. Raises KeyError."""
        if not hasattr(self._local, "zip"):  # one a thread: a shared one would lock at every read
            self._local.zip = open_zip(self.path)
        opened: zipfile.ZipFile = self._local.zip
        return read_member(opened, name, PICTURE_BYTES)

    def address(self, name: str) -> FileAddress:
        """Its address."""
        return FileAddress(self.path, name)

    checked = address


@dataclass(frozen=True)
class FileReader:
    """Image files, or slices of volumes by `name#index`."""

    files: Files
    names: tuple[str, ...]
    what: str = "image"  # or mask

    def image(self, row: int, window: Window = None) -> Picture:
        """The image of one row, its intensities made 8 bits by `window`."""
        return self._read(
            row,
            lambda data: decode_bytes(data, window),
            lambda address, index: volume(address).image(index, window),
        )

    def raw(self, row: int) -> Raw:
        """The intensities of one row as they are."""
        return self._read(row, raw_bytes, lambda address, index: volume(address).raw(index))

    def values(self, row: int) -> Raw:
        """Pixel values of one row: of a palette the indices, not the colours."""
        return self._read(row, value_bytes, lambda address, index: volume(address).raw(index))

    def size(self, row: int) -> tuple[int, int]:
        """(height, width) of one row."""
        return self._read(row, size_of_bytes, lambda address, _: grid(address).shape[1:])

    def grid(self, row: int) -> Grid | None:
        """The voxels of its volume; None for a picture."""
        part = slice_of(self.names[row])
        return self._read(row, lambda _: None, lambda address, _: grid(address)) if part else None

    def name_of(self, row: int) -> str:
        """Its path, and the zip it lies in."""
        return str(self.files.address(self.names[row]))

    def take(self, rows: Indices) -> FileReader:
        """Some of its rows, as rows of their own."""
        return replace(self, names=tuple(self.names[row] for row in rows.tolist()))

    def _read(
        self, row: int, whole: Callable[[bytes], Out], cut: Callable[[FileAddress, int], Out]
    ) -> Out:
        """What `whole` makes of a file's bytes, or `cut` of a slice."""
        name = self.names[row]
        try:
            part = slice_of(name)
            if part is None:
                return whole(self.files.read(name))
            return cut(self.files.checked(part.file), part.at)
        except (FileNotFoundError, KeyError):
            address = self.files.address(part.file if part else name)
            raise BadInput(f"{self.what} {address.missing}") from None
        except BROKEN as error:
            reason = str(error) if isinstance(error, BadInput) else _first_line(error)
            message = f"{self.what} {self.name_of(row)} cannot be read: {reason}"
            raise BadInput(message) from None


@dataclass(frozen=True)
class NpzReader:
    """Rows of an array of images, or of masks."""

    path: Path
    array: str
    indices: Indices

    def image(self, row: int, window: Window = None) -> Picture:
        """The image of one row, its intensities made 8 bits by `window`."""
        return to_bytes(self.raw(row), window)

    def raw(self, row: int) -> Raw:
        """The image or mask of one row, uint8 [H, W] or [H, W, 3]."""
        picture: Picture = self._images[self.indices[row]]
        return picture[..., 0] if picture.ndim == 3 and picture.shape[2] == 1 else picture

    values = raw

    def size(self, row: int) -> tuple[int, int]:
        """(height, width), the same for all rows."""
        return npz_header(self.path, self.array)[0][1:3]  # type: ignore[return-value]

    def grid(self, row: int) -> None:
        """None: an array does not say where it lies."""

    def name_of(self, row: int) -> str:
        """Array, index and file."""
        return f"{self.array}:{self.indices[row]} in {self.path}"

    def take(self, rows: Indices) -> NpzReader:
        """Some of its rows, as rows of their own."""
        return replace(self, indices=self.indices[rows])

    @functools.cached_property
    def _images(self) -> np.ndarray[Any, np.dtype[np.uint8]]:
        return npz_images(self.path, self.array)


def open_zip(path: Path) -> zipfile.ZipFile:
    """The zip at `path`. Raises BadInput if it is missing or is none."""
    try:
        return zip_opened(path)
    except FileNotFoundError:
        raise BadInput(f"archive {path} is missing") from None
    except DAMAGED as error:
        raise BadInput(f"archive {path} cannot be read: {_first_line(error)}") from None


def npz_array(path: Path, name: str) -> np.ndarray[Any, Any]:
    """One array of the npz at `path`. Raises BadInput if it is not there, or not of numbers, or
    claims more than the file can hold, or this machine.
    """
    npz_header(path, name)
    return _loaded(path, name)


def _loaded(path: Path, name: str) -> np.ndarray[Any, Any]:
    try:
        zip_opened(path).close()
        with np.load(path, allow_pickle=False) as archive:
            if name not in archive:
                raise BadInput(
                    f"{path} has no array '{name}'; there are {', '.join(archive.files)}"
                )
            array = archive[name]
            if not isinstance(array, np.ndarray):  # other members come as bytes
                raise BadInput(f"'{name}' of {path} is no array")
            return array
    except FileNotFoundError:
        raise BadInput(f"archive {path} is missing") from None
    except BadInput:
        raise
    except (*BROKEN, AttributeError, TypeError) as error:
        raise BadInput(f"archive {path} cannot be read: {_first_line(error)}") from None


def npz_images(path: Path, name: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The image array, [N, H, W], [N, H, W, 1] or [N, H, W, 3]. Raises BadInput if it is not."""
    npz_count(path, name)
    return _loaded(path, name)


def npz_count(path: Path, name: str) -> int:
    """Number of images in an array, by its header alone. Raises BadInput if it holds no images."""
    shape, dtype = npz_header(path, name)
    fits = len(shape) == 3 or (len(shape) == 4 and shape[3] in (1, 3))
    if dtype != np.uint8 or not fits:
        must = "images must be uint8 [N, H, W] or [N, H, W, 3]"
        raise BadInput(f"array '{name}' of {path} is {dtype} {list(shape)}; {must}")
    if 0 in shape[1:]:
        raise BadInput(f"array '{name}' of {path} is {list(shape)}: its images have no pixels")
    return int(shape[0])


def npz_header(path: Path, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and type of an array, by its header alone.

    Raises BadInput if it is not there, or claims more than the file can hold, or this machine.
    """
    try:
        with zip_opened(path) as archive, archive.open(f"{name}.npy") as handle:
            about = archive.getinfo(f"{name}.npy")
            kind = 1 if np.lib.format.read_magic(handle) == (1, 0) else 2
            shape, _, dtype = getattr(np.lib.format, f"read_array_header_{kind}_0")(handle)
            start = handle.tell()
    except (KeyError, *BROKEN):
        array = _loaded(path, name)  # names what is wrong
        return array.shape, array.dtype
    if fault := claim_fault(start + math.prod(shape) * dtype.itemsize, about, path):
        raise BadInput(f"array '{name}' of {path} is {dtype} {list(shape)}, {fault}")
    return shape, dtype


def _first_line(error: BaseException) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "it is no image of a kind that is known here"
    return cut_off((str(error).splitlines() or [type(error).__name__])[0], 300)
