"""Where this product keeps its state, and below which folder data are found."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

from sfda.errors import BadInput

log = logging.getLogger("sfda")


def state_folder() -> Path:
    """`$SFDA_HOME`, or `.sfda` in the current folder. It may not exist yet."""
    return Path(os.environ.get("SFDA_HOME") or ".sfda").expanduser().absolute()


def data_folder() -> Path:
    """`$SFDA_DATA`, or the current folder."""
    return Path(os.environ.get("SFDA_DATA") or ".").expanduser().absolute()


PERSONS_UMASK = "SFDA_UMASK"  # the umask that a command was called with, for what it starts
NOT_WRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)
REMEDY = (
    "free some space or point SFDA_HOME to another disk, then start the same command again: "
    "it goes on where it stopped"
)


def home() -> Path:
    """The folder `$SFDA_HOME` (default `.sfda`), made if absent, closed to other users.

    Raises BadInput where it cannot be written to.
    """
    folder = state_folder()
    try:
        private_folder(folder)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise BadInput(
            f"cannot write to SFDA_HOME {folder} ({os.strerror(error.errno or errno.EIO)}); "
            "set SFDA_HOME to a folder you may write to"
        ) from error
    return folder


def private_folder(folder: Path) -> None:
    """Make a folder that its owner alone can enter, or close one of ours that others can."""
    folder.mkdir(0o700, parents=True, exist_ok=True)
    now = folder.stat()
    if now.st_mode & 0o077 and now.st_uid == os.geteuid():
        folder.chmod(0o700)
        log.warning("%s was open to other users and is closed to them now", folder)


def private_file(file: Path) -> None:
    """Make an empty file that its owner alone can read, or close one of ours that others can."""
    descriptor = os.open(file, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        now = os.fstat(descriptor)
        if now.st_mode & 0o077 and now.st_uid == os.geteuid():
            os.fchmod(descriptor, 0o600)
    finally:
        os.close(descriptor)


def close_new_files() -> int:
    """Files and folders that this process and its children make are their owner's alone from now
    on; the umask before. Libraries write below the home, too, so it holds for the whole process.
    """
    before = os.umask(0o077)
    os.environ.setdefault(PERSONS_UMASK, f"{before:03o}")
    return before


def close_copies(address: str) -> None:
    """Close to others what was copied into the home with the modes that it had elsewhere, below the
    address of a folder; elsewhere nothing is done."""
    folder = Path(unquote(urlsplit(address).path)) if address.startswith("file:") else Path(address)
    if folder.is_relative_to(state_folder()):
        for path in (folder, *folder.rglob("*")):
            if not path.is_symlink():
                path.chmod(path.stat().st_mode & 0o700)


@contextmanager
def named_by_a_person(path: Path) -> Iterator[int]:
    """What is written meanwhile has the modes of that person's own umask, which is yielded; below
    the home it stays its owner's alone."""
    before = os.umask(0o077)
    try:
        mask = int(os.environ[PERSONS_UMASK], 8) & 0o777
    except (KeyError, ValueError):
        mask = before
    if path.absolute().is_relative_to(state_folder()):
        mask |= 0o077
    os.umask(mask)
    try:
        yield mask
    finally:
        os.umask(before)


def decoded_folder() -> Path:
    """Where decoded images are kept. It is not tried whether it can be written to."""
    return state_folder() / "decoded"


@contextmanager
def disk_errors(what: str, remedy: str = REMEDY) -> Iterator[None]:
    """Turn a full or read-only disk into BadInput that names `what` was being written."""
    try:
        yield
    except shutil.Error as error:  # of a copied folder: it lists what it met, without a number
        raise BadInput(f"cannot write {what}: {error}; {remedy}") from error
    except OSError as error:
        if error.errno not in NOT_WRITABLE:
            raise
        raise BadInput(f"cannot write {what}: {os.strerror(error.errno or 0)}; {remedy}") from error


@contextmanager
def one_at_a_time(folder: Path) -> Iterator[None]:
    """Let no second process do the same work meanwhile: it waits, and then finds it done."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
