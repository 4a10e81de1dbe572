"""Digests of files, of arrays and of the names of rows."""

from __future__ import annotations

import functools
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from pydantic_core import to_jsonable_python

from sfda.errors import BadInput
from sfda.formats.readers import BROKEN, npz_images, open_zip


def file_digest(path: Path) -> str:
    """sha256 of a file; read again only when its size or time has changed."""
    stat = path.stat()
    return _file_digest(path, stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=100_000)
def _file_digest(path: Path, size: int, time: int) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def bytes_digest(content: bytes) -> str:
    """sha256 of what a file is about to hold."""
    return hashlib.sha256(content).hexdigest()


def members_digest(path: Path, names: tuple[str, ...]) -> str:
    """sha256 of the bytes of some members of a zip, in order; kept until the zip changes.

    Raises BadInput if the zip or a member is missing.
    """
    if not path.is_file():
        raise BadInput(f"archive {path} is missing")
    stat = path.stat()
    return _members_digest(path, names, stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=16)
def _members_digest(path: Path, names: tuple[str, ...], size: int, time: int) -> str:
    digest = hashlib.sha256()
    with open_zip(path) as archive:
        for name in names:
            try:
                digest.update(hashlib.sha256(archive.read(name)).digest())
            except KeyError:
                raise BadInput(f"image {name} is missing from {path}") from None
            except BROKEN as error:
                raise BadInput(f"image {name} in {path} cannot be read: {error}") from None
    return digest.hexdigest()


def row_id(name: str) -> str:
    """Opaque name of a row: 16 hex digits of the sha256 of its path, or of `array:index`.

    >>> row_id("webcam/mug/frame_0001.jpg")
    '23d7db97a075553d'
    """
    return hashlib.sha256(name.encode()).hexdigest()[:16]


def array_digest(path: Path, name: str) -> str:
    """sha256 of one array's type, shape and bytes; read again only when the file has changed."""
    if not path.is_file():
        raise BadInput(f"archive {path} is missing")
    stat = path.stat()
    return _array_digest(path, name, stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _array_digest(path: Path, name: str, size: int, time: int) -> str:
    array = np.ascontiguousarray(npz_images(path, name))
    digest = hashlib.sha256(f"{array.dtype.str}{array.shape}".encode())
    digest.update(array.reshape(-1).data)
    return digest.hexdigest()


def key_of(**parts: Any) -> str:
    """A digest of named parts: pydantic models, plain values, collections of them."""
    text = json.dumps(to_jsonable_python(parts), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
