"""Files and members of zips that others may have made: regular ones, read within limits."""

from __future__ import annotations

import io
import lzma
import math
import os
import stat
import struct
import tokenize
import zipfile
import zlib
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, BinaryIO

from sfda.bounds.limits import ZIP_DIRECTORY_BYTES, Limit

if TYPE_CHECKING:
    from _typeshed import SupportsRead, WriteableBuffer

DAMAGED = (
    OSError,
    ValueError,
    EOFError,
    MemoryError,
    RuntimeError,
    struct.error,
    zlib.error,
    lzma.LZMAError,
    zipfile.BadZipFile,
    tokenize.TokenError,
)  # what zipfile, its kinds of packing, and numpy raise on files that are not what they claim
READ_AT_ONCE = 1 << 20  # bytes that are read at once
MOST_UNPACKED = 1100  # bytes out of one that was deflated, which can be 1032
_END = b"PK\5\6"  # begins the end of a zip: 22 bytes, and a comment
_END_64 = b"PK\6\6"  # that of a zip beyond 4 GB, 56 bytes before
_COMMENT = 0xFFFF


class Unreadable(ValueError):
    """A document cannot be read; the message is one line, without the document's name."""


def open_regular(path: Path) -> BinaryIO:
    """A file, opened to be read. Raises OSError, and Unreadable for what is no regular file, which
    could wait, or give bytes, for ever; links are followed.
    """
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise _irregular()
    return os.fdopen(handle, "rb")


def check_regular(path: Path) -> None:
    """Raise as `open_regular`: before a library opens the file itself."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise _irregular()


def _irregular() -> Unreadable:
    return Unreadable("it is no regular file, but a folder, a pipe or a device")


def read_bounded(path: Path, limit: Limit) -> bytes:
    """What a file holds. Raises as `open_regular`, and Unreadable beyond the limit."""
    with open_regular(path) as file:
        return read_opened(file, limit)


def read_opened(file: IO[bytes], limit: Limit) -> bytes:
    """What an opened file of the disk holds. Raises OSError, or Unreadable beyond the limit."""
    _check_size(file, limit)
    return read_all(file, limit)


def stream_opened(file: IO[bytes], limit: Limit) -> io.BufferedReader:
    """The same to be read little by little. Raises Unreadable, here or where it is read too far."""
    _check_size(file, limit)
    return io.BufferedReader(_Counted(file, limit), READ_AT_ONCE)


def _check_size(file: IO[bytes], limit: Limit) -> None:
    size = os.fstat(file.fileno()).st_size  # perhaps holes alone
    if size > limit.most:
        raise Unreadable(f"it has {limit.refusal(size)}")


class _Counted(io.RawIOBase):
    """An opened file that is an error beyond a limit, whatever length it states."""

    def __init__(self, file: IO[bytes], limit: Limit) -> None:
        super().__init__()
        self._file, self._limit, self._most, self._size = file, limit, limit.most, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        part = self._file.read(memoryview(buffer).nbytes)
        memoryview(buffer)[: len(part)] = part
        self._size += len(part)
        if self._size > self._most:
            raise Unreadable(f"it has {self._limit.beyond}")
        return len(part)


def read_all(file: SupportsRead[bytes], limit: Limit, piece: int = READ_AT_ONCE) -> bytes:
    """The rest of an opened file, piece by piece. Raises Unreadable beyond the limit."""
    pieces, size, most = [], 0, limit.most
    while part := file.read(piece):
        pieces.append(part)
        size += len(part)
        if size > most:
            raise Unreadable(f"it has {limit.beyond}")
    return b"".join(pieces)


def zip_opened(path: Path) -> zipfile.ZipFile:
    """The zip at `path`. Raises as `open_regular`, what zipfile raises, and Unreadable for a
    list of files beyond the limit, of each of which zipfile makes an object. Members whose
    names have backslashes can also be had by the same name with slashes.
    """
    with open_regular(path) as file:
        size = _directory_size(file)
    if size > ZIP_DIRECTORY_BYTES.most:
        raise Unreadable(f"its list of files has {ZIP_DIRECTORY_BYTES.refusal(size)}")
    archive = zipfile.ZipFile(path)
    for member in archive.infolist():
        if (name := plain_member(member.filename)) != member.filename:
            archive.NameToInfo.setdefault(name, member)
    return archive


def plain_member(name: str) -> str:
    r"""A member's name with slashes: zips that are packed on Windows may have backslashes.

    >>> plain_member(r".\disc\0.png")
    'disc/0.png'
    """
    return name.replace("\\", "/").removeprefix("./")


def _directory_size(file: BinaryIO) -> int:
    """Bytes of a zip's list of files, as its end says; 0 where that is not to be seen."""
    whole = file.seek(0, os.SEEK_END)
    file.seek(max(0, whole - _COMMENT - 22 - 20 - 56))
    tail = file.read()
    at, at_64 = tail.rfind(_END), tail.rfind(_END_64)
    sizes = [int.from_bytes(tail[at + 12 : at + 16], "little")] if at >= 0 else []
    if sizes == [0xFFFFFFFF] and at_64 >= 0:
        sizes = [int.from_bytes(tail[at_64 + 40 : at_64 + 48], "little")]
    return min(max(sizes, default=0), whole)


def read_member(archive: zipfile.ZipFile, name: str, limit: Limit) -> bytes:
    """What a member of a zip holds. Raises KeyError, what zipfile raises, or Unreadable where that
    is beyond the limit, by what the zip says, or really.
    """
    about = archive.getinfo(name)
    if about.file_size > limit.most:
        raise Unreadable(f"unpacked it has {limit.refusal(about.file_size)}")
    # other kinds unpack all that was read, however much that becomes
    plain = about.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
    with archive.open(about) as file:
        return read_all(file, limit, piece=READ_AT_ONCE if plain else 1 << 12)


def claim_fault(needed: int, about: zipfile.ZipInfo, path: Path) -> str:
    """What is wrong with an array of so many bytes in a member of the zip at `path`, which is
    unpacked as a whole; '' if nothing is.
    """
    packed = min(about.compress_size, path.stat().st_size)
    if needed > about.file_size or needed > MOST_UNPACKED * packed:
        return f"which the {packed} bytes of its member cannot hold"
    if needed > machine_memory():
        return "which is more than this machine's memory; make several files of it"
    return ""


def machine_memory() -> float:
    """Bytes of this machine's memory; without end where that cannot be told."""
    with suppress(AttributeError, OSError, ValueError):  # not every system has these
        pages = os.sysconf("SC_PHYS_PAGES")
        return pages * os.sysconf("SC_PAGE_SIZE") if pages > 0 else math.inf
    return math.inf
