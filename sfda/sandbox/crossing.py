"""Files that a restricted process has made, opened outside without a step aside.

No link is followed, only regular files are opened, each by its name, and no more is read than
was to be expected.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path, PurePosixPath

from sfda.bounds.limits import Limit
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


class Within:
    """Asks of many names in a folder what `inside` asks of one: the folders above are looked at
    once, and of a file only whether it is a link.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._good = folder, dict[str, bool]()
        self._top = os.path.realpath(folder).rstrip("/") + "/"

    def check(self, name: str) -> None:
        """Raise BadInput where a file lies elsewhere."""
        above = os.path.dirname(name)
        if above not in self._good:
            real = os.path.realpath(self._folder / above)
            self._good[above] = f"{real}/".startswith(self._top)
        path = self._folder / name
        if not self._good[above] or os.path.basename(name) == ".." or os.path.islink(path):
            inside(self._folder, name)


def all_inside(folder: Path, files: Iterable[Path]) -> list[Path]:
    """The same files below a folder, in order. Raises BadInput for one that a link leads out."""
    within, checked = Within(folder), list(files)
    for file in checked:
        within.check(file.relative_to(folder).as_posix())
    return checked


def open_inside(folder: Path, name: str) -> int:
    """A descriptor of the file `name` in `folder`. Links that stay in the folder are good.

    Raises OSError, BadInput where the file lies elsewhere.
    """
    path = PurePosixPath(name)
    if not path.is_absolute() and ".." not in path.parts:
        try:
            return open_below(folder, name)
        except OSError as error:
            if error.errno not in (errno.ELOOP, errno.ENOTDIR):  # a link on the way
                raise
    return open_below(*inside(folder, name))


@contextmanager
def opened_within(folder: Path, name: str, *, limit: int | Limit) -> Iterator[BufferedReader]:
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
        if about.st_size > _most(limit):
            size = about.st_size
            plain = f"{size} bytes, more than {limit}"
            met = limit.refusal(size) if isinstance(limit, Limit) else plain
            raise _refused(path, f"it has {met}")
        with os.fdopen(handle, "rb", closefd=False) as file:
            yield file
    finally:
        os.close(handle)


def read_within(folder: Path, name: str, *, limit: int | Limit) -> bytes:
    """What a file holds. Raises BadInput as `opened_within`."""
    with opened_within(folder, name, limit=limit) as file:
        return file.read(_most(limit))


def copy_within(folder: Path, name: str, to: Path, *, limit: int | Limit) -> None:
    """Copy a file's content to the new file `to`. Raises BadInput as `opened_within`."""
    with opened_within(folder, name, limit=limit) as file, to.open("xb") as copy:
        shutil.copyfileobj(file, copy)


def _most(limit: int | Limit) -> int:
    return limit.most if isinstance(limit, Limit) else limit


def _refused(path: Path, why: str) -> BadInput:
    return BadInput(
        f"{path} is not taken over: {why}; put the file itself there, or, if a command has made "
        f"it, delete {path.parent} and start that command again"
    )
