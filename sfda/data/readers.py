"""Images out of a folder, a zip or an npz, each read in place."""

from __future__ import annotations

import functools
import io
import struct
import threading
import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from sfda.errors import BadInput

Picture = np.ndarray[Any, np.dtype[np.uint8]]  # [H, W, 3] or [H, W]
BROKEN = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    RuntimeError,
    NotImplementedError,
    struct.error,
    zlib.error,
    zipfile.BadZipFile,
    Image.DecompressionBombError,
)  # all that PIL and zipfile raise on files that are not what they claim


class Reader(Protocol):
    """Where the images of a split come from."""

    def image(self, row: int) -> Picture:
        """The image of one row. Raises BadInput naming the file."""
        ...


@dataclass(frozen=True)
class FolderReader:
    """Image files below a folder."""

    root: Path
    files: tuple[str, ...]

    def image(self, row: int) -> Picture:
        """The image of one row. Raises BadInput naming the file."""
        path = self.root / self.files[row]
        try:
            return decode_bytes(path.read_bytes())
        except FileNotFoundError:
            raise BadInput(f"image {path} is missing") from None
        except BROKEN as error:
            raise BadInput(f"image {path} cannot be read: {_first_line(error)}") from None


@dataclass(frozen=True)
class ZipReader:
    """Image files in a zip, which is never unpacked."""

    path: Path
    members: tuple[str, ...]
    _local: threading.local = field(default_factory=threading.local, repr=False, compare=False)

    def image(self, row: int) -> Picture:
        """The image of one row. Raises BadInput naming the member."""
        member = self.members[row]
        try:
            return decode_bytes(self._zip().read(member))
        except KeyError:
            raise BadInput(f"image {member} is missing from {self.path}") from None
        except BROKEN as error:
            raise BadInput(
                f"image {member} in {self.path} cannot be read: {_first_line(error)}"
            ) from None

    def _zip(self) -> zipfile.ZipFile:
        if not hasattr(self._local, "zip"):  # one a thread: a shared one would lock at every read
            self._local.zip = open_zip(self.path)
        opened: zipfile.ZipFile = self._local.zip
        return opened


@dataclass(frozen=True)
class NpzReader:
    """Rows of an image array."""

    path: Path
    array: str
    indices: np.ndarray[Any, np.dtype[np.int64]]

    def image(self, row: int) -> Picture:
        """The image of one row."""
        found: Picture = self._images[self.indices[row]]
        return found[..., 0] if found.ndim == 3 and found.shape[2] == 1 else found

    @functools.cached_property
    def _images(self) -> np.ndarray[Any, np.dtype[np.uint8]]:
        return npz_images(self.path, self.array)


def decode_bytes(data: bytes) -> Picture:
    """An encoded image as uint8, [H, W] if it is grey and [H, W, 3] RGB otherwise, upright by EXIF.

    Raises what PIL raises on broken data.
    """
    opened = Image.open(io.BytesIO(data))
    opened.load()
    image = ImageOps.exif_transpose(opened)
    if image.mode == "F":
        raise ValueError("floating-point images are not supported; save them with 8 bits")
    if image.mode.startswith("I"):  # 16 bits a pixel: PIL itself would clip, not scale
        deep = np.asarray(image).astype(np.int64)
        return (deep.clip(0, 65535) // 257).astype(np.uint8)
    grey = image.mode in ("L", "1", "LA")
    return np.asarray(image.convert("L" if grey else "RGB"))


def open_zip(path: Path) -> zipfile.ZipFile:
    """The zip at `path`. Raises BadInput if it is missing or is none."""
    try:
        return zipfile.ZipFile(path)
    except FileNotFoundError:
        raise BadInput(f"archive {path} is missing") from None
    except (OSError, zipfile.BadZipFile) as error:
        raise BadInput(f"archive {path} cannot be read: {_first_line(error)}") from None


def npz_array(path: Path, name: str) -> np.ndarray[Any, Any]:
    """One array of the npz at `path`. Raises BadInput if it is not there, or not of numbers."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            if name not in archive:
                raise BadInput(
                    f"{path} has no array '{name}'; there are {', '.join(archive.files)}"
                )
            array: np.ndarray[Any, Any] = archive[name]
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
    return npz_array(path, name)


def npz_count(path: Path, name: str) -> int:
    """Number of images in an array, by its header alone. Raises BadInput if it holds no images."""
    try:
        with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as handle:
            version = np.lib.format.read_magic(handle)
            reads = {(1, 0): np.lib.format.read_array_header_1_0}
            read = reads.get(version, np.lib.format.read_array_header_2_0)
            shape, _, dtype = read(handle)
    except (KeyError, *BROKEN):
        found = npz_array(path, name)  # names what is wrong
        shape, dtype = found.shape, found.dtype
    fits = len(shape) == 3 or (len(shape) == 4 and shape[3] in (1, 3))
    if dtype != np.uint8 or not fits:
        raise BadInput(
            f"array '{name}' of {path} is {dtype} {list(shape)}; "
            "images must be uint8 [N, H, W] or [N, H, W, 3]"
        )
    return int(shape[0])


def _first_line(error: BaseException) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "it is no image of a kind that is known here"
    return (str(error).splitlines() or [type(error).__name__])[0]
