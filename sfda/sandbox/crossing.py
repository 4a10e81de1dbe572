"""Files that a restricted process has made, opened outside without a step aside.

No link is followed, only regular files are opened, each by its name, and no more is read than
was to be expected.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path, PurePosixPath

from sfda.errors import BadInput


def open_below(folder: Path, name: str) -> int:
    """A descriptor of the file `name` below `folder`, of which neither may be a link.

    Where `folder` lies may be one. Raises OSError.
    """
    handle: int | None = None
    folders: list[Path | str] = [folder, *PurePosixPath(name).parts[:-1]]
    try:
        for part in folders:
            inner = os.open(part, _FOLDER, dir_fd=handle)
            if handle is not None:
                os.close(handle)
            handle = inner
        return os.open(PurePosixPath(name).name, _FILE, dir_fd=handle)
    finally:
        if handle is not None:
            os.close(handle)


_ONLY = os.O_CLOEXEC | os.O_NOFOLLOW
_FOLDER = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | _ONLY
_FILE = os.O_RDONLY | os.O_NONBLOCK | _ONLY  # a pipe would wait


def inside(folder: Path, name: str) -> tuple[Path, str]:
    """The folder and the name of a file in it without links. Raises BadInput if it lies elsewhere.

    Links that stay in the folder are good.
    """
    root, path = os.path.realpath(folder), os.path.realpath(folder / name)
    if not path.startswith(root.rstrip("/") + "/"):
        raise BadInput(
            f"{folder / name} leads out of {folder}, to {path}; put the file itself there, no link"
        )
    return Path(root), os.path.relpath(path, root)


@contextmanager
def opened_within(folder: Path, name: str, *, limit: int) -> Iterator[BufferedReader]:
    """The file `name` below `folder`, to be read. Raises BadInput naming what is wrong with it.

    No link is followed.
    """
    path = folder / name
    try:
        handle = open_below(folder, name)
    except OSError as error:
        raise _refused(path, f"{os.strerror(error.errno or 0)}; links are not followed") from error
    try:
        about = os.fstat(handle)
        if not stat.S_ISREG(about.st_mode):
            raise _refused(path, "it is no regular file")
        if about.st_size > limit:
            raise _refused(path, f"it has {about.st_size} bytes, more than {limit}")
        with os.fdopen(handle, "rb", closefd=False) as file:
            yield file
    finally:
        os.close(handle)


def read_within(folder: Path, name: str, *, limit: int) -> bytes:
    """What a file holds. Raises BadInput as `opened_within`."""
    with opened_within(folder, name, limit=limit) as file:
        return file.read(limit)


def copy_within(folder: Path, name: str, to: Path, *, limit: int) -> None:
    """Copy a file's content to the new file `to`. Raises BadInput as `opened_within`."""
    with opened_within(folder, name, limit=limit) as file, to.open("xb") as copy:
        shutil.copyfileobj(file, copy)


def _refused(path: Path, why: str) -> BadInput:
    return BadInput(
        f"{path} is not taken over: {why}; put the file itself there, or, if a command has made "
        f"it, delete {path.parent} and start that command again"
    )
