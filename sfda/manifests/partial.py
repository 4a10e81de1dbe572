"""What takes its place whole: it is made in a folder beside, and killed starts leave nothing there.

The folder is locked while its writer lives: the system lets go of a lock however a process ends. So
the next writer of the same name can tell what nobody will finish any more, and removes it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

LONGEST = 40  # characters of the name, as file systems bound the whole


@contextmanager
def partial_folder(parent: Path, name: str) -> Iterator[Path]:
    """A new folder in `parent`, its owner's alone, for what will be called `name`. Whatever is left
    of it afterwards is removed, and what killed writers left before. Raises OSError.
    """
    prefix = f".{name[:LONGEST]}.part-"
    parent_lock = _locked(parent, fcntl.LOCK_EX)
    try:
        for path in parent.iterdir() if parent_lock is not None else ():
            if path.name.startswith(prefix):
                _remove_abandoned(path)
        folder = Path(tempfile.mkdtemp(dir=parent, prefix=prefix))
        lock = _locked(folder, fcntl.LOCK_EX)
    finally:
        _unlock(parent_lock)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        _unlock(lock)


def _remove_abandoned(folder: Path) -> None:
    lock = None if folder.is_symlink() else _locked(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    if lock is not None:
        shutil.rmtree(folder, ignore_errors=True)
        _unlock(lock)


def _locked(folder: Path, how: int) -> int | None:
    """The descriptor that holds the lock; None where another has it, or there are no locks."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, how)
        except OSError:
            os.close(descriptor)
        else:
            return descriptor
    return None


def _unlock(descriptor: int | None) -> None:
    if descriptor is not None:
        os.close(descriptor)
