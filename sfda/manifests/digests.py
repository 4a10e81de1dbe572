"""Digests of files, of arrays and of the names of rows."""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from pydantic_core import to_jsonable_python

from sfda.bounds.files import read_member
from sfda.bounds.limits import VOLUME_BYTES
from sfda.errors import BadInput
from sfda.formats.readers import BROKEN, npz_images, open_zip
from sfda.images.file_index import FileIndex, open_index
from sfda.state_folder import Stamp, stamp_of

WORTH_KEEPING = 1 << 20  # bytes of a single file from which its digest is kept for other processes
IN_ONE_PIECE = 10_000  # digests that are kept at once
_READ_AT_ONCE = 1 << 16  # bytes of a file


def file_digest(path: Path) -> str:
    """sha256 of a file; read again only when it has changed. Raises OSError."""
    stamp = stamp_of(path)
    return _file_digest(path.absolute(), stamp, _once(stamp))


@functools.lru_cache(maxsize=100_000)
def _file_digest(path: Path, stamp: Stamp, once: int | None) -> str:
    if stamp.size < WORTH_KEEPING:
        return hash_file(path)
    return kept_digest(path, stamp, "", lambda: hash_file(path))


def file_digests(files: Iterable[tuple[str, Stamp]]) -> Iterator[str]:
    """sha256 of files (absolute path, stamp), in order; those alone are read that have changed
    since ever read.

    Digests of earlier processes count, which lie below the home. Raises OSError.
    """
    waiting = iter(files)
    with open_index() as index:
        while part := list(itertools.islice(waiting, IN_ONE_PIECE)):
            if index is None:
                yield from (_file_digest(Path(path), now, _once(now)) for path, now in part)
            else:
                yield from _some_digests(part, index)


def _some_digests(files: list[tuple[str, Stamp]], index: FileIndex) -> list[str]:
    digests = index.known(files)
    fresh: list[tuple[str, Stamp, str]] = []
    try:
        for path, stamp in files:
            if path not in digests:
                digests[path] = hash_file(path)
                fresh.append((path, stamp, digests[path]))
    finally:  # what is done stays done
        index.add(fresh)
    return [digests[path] for path, _ in files]


def hash_file(path: Path | str) -> str:
    """sha256 of a file, which is read. Raises OSError.

    Not by `hashlib.file_digest`: a buffer a file costs more than a small file's digest.
    """
    digest, file = hashlib.sha256(), os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        while content := os.read(file, _READ_AT_ONCE):
            digest.update(content)
    except OSError as error:
        error.filename = os.fspath(path)
        raise
    finally:
        os.close(file)
    return digest.hexdigest()


def kept_digest(path: Path, stamp: Stamp, kind: str, compute: Callable[[], str]) -> str:
    """A digest of what `kind` names of a file, from the kept ones or computed and kept."""
    with open_index() as index:
        if index and (known := index.known([(str(path), stamp)], kind)):
            return known[str(path)]
        digest = compute()
        if index:
            index.add([(str(path), stamp, digest)], kind)
    return digest


def _once(stamp: Stamp) -> int | None:
    """A number that comes but once for a file so young that another change would not show."""
    return None if stamp.settled else time.monotonic_ns()


def bytes_digest(content: bytes) -> str:
    """sha256 of what a file is about to hold."""
    return hashlib.sha256(content).hexdigest()


def members_digest(path: Path, names: tuple[str, ...]) -> str:
    """sha256 of the bytes of some members of a zip, in order; read again only when it has changed.

    Raises BadInput if the zip or a member is missing.
    """
    stamp = archive_stamp(path)
    return _members_digest(path.absolute(), names, stamp, _once(stamp))


@functools.lru_cache(maxsize=16)
def _members_digest(path: Path, names: tuple[str, ...], stamp: Stamp, once: int | None) -> str:
    kind = "members " + hashlib.sha256("\0".join(names).encode()).hexdigest()
    return kept_digest(path, stamp, kind, lambda: _hash_members(path, names))


def _hash_members(path: Path, names: tuple[str, ...]) -> str:
    digest = hashlib.sha256()
    with open_zip(path) as archive:
        for name in names:
            try:
                content = read_member(archive, name, VOLUME_BYTES)
                digest.update(hashlib.sha256(content).digest())
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
    stamp = archive_stamp(path)
    return _array_digest(path.absolute(), name, stamp, _once(stamp))


@functools.lru_cache(maxsize=64)
def _array_digest(path: Path, name: str, stamp: Stamp, once: int | None) -> str:
    return kept_digest(path, stamp, f"array {name}", lambda: _hash_array(path, name))


def archive_stamp(path: Path) -> Stamp:
    """The stamp of an archive. Raises BadInput where it is missing."""
    if not path.is_file():
        raise BadInput(f"archive {path} is missing")
    return stamp_of(path)


def _hash_array(path: Path, name: str) -> str:
    array = np.ascontiguousarray(npz_images(path, name))
    digest = hashlib.sha256(f"{array.dtype.str}{array.shape}".encode())
    digest.update(array.reshape(-1).data)
    return digest.hexdigest()


def key_of(**parts: object) -> str:
    """A digest of named parts: pydantic models, plain values, collections of them."""
    text = json.dumps(to_jsonable_python(parts), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
