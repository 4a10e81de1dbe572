"""Where this product keeps its state, below which folder data are found, and what tells that a
file is as it was.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import BinaryIO, NamedTuple
from urllib.parse import unquote, urlsplit

from sfda.errors import BadInput
from sfda.strangers import (
    close_to_others,
    lock_within,
    mark_new,
    open_own,
    refuse_brought_home,
    refuse_folder_of_others,
)

log = logging.getLogger("sfda")


_private: ContextVar[Path | None] = ContextVar("state of one call", default=None)


def state_folder() -> Path:
    """`$SFDA_HOME`, or `.sfda` in the current folder. It may not exist yet."""
    return _private.get() or lasting_folder()


def lasting_folder() -> Path:
    """The same where `temporary_state` changes nothing."""
    return _named_by("SFDA_HOME", ".sfda")


def _named_by(variable: str, usual: str) -> Path:
    """The folder that a variable names. Raises BadInput for the home of an unknown user."""
    text = os.environ.get(variable) or usual
    try:
        return Path(text).expanduser().absolute()
    except RuntimeError:
        raise BadInput(
            f"{variable}={text}: there is no user of that name; write the folder's whole path"
        ) from None


@contextmanager
def temporary_state() -> Iterator[Path]:
    """Inside, state lies in a temporary folder, which is yielded, and neither `$SFDA_HOME` nor the
    current folder is touched. The outermost of several removes it.
    """
    if outer := _private.get():
        yield outer
        return
    with tempfile.TemporaryDirectory(prefix="sfda-") as folder:
        token = _private.set(Path(folder).resolve())
        try:
            yield Path(folder).resolve()
        finally:
            _private.reset(token)


def data_folder() -> Path:
    """`$SFDA_DATA`, or the current folder."""
    return _named_by("SFDA_DATA", ".")


PERSONS_UMASK = "SFDA_UMASK"  # the umask that a command was called with, for what it starts
NO_RIGHT = (errno.EROFS, errno.EACCES, errno.EPERM)  # where room is not what is missing
NOT_WRITABLE = (errno.ENOSPC, errno.EDQUOT, *NO_RIGHT)
MAKE_ROOM, MAY_WRITE = "free some space", "get the right to write there"
LEAST_FREE = 4 << 20  # bytes without which servers do not start
LOCK_PATIENCE = 60.0  # seconds for a lock that other users may hold
SETTLED = 2.0  # seconds after which another change would show in a file's times
REMEDY = (
    f"{MAKE_ROOM} or point SFDA_HOME to another disk, then start the same command again: "
    "it goes on where it stopped"
)


def home() -> Path:
    """The folder `$SFDA_HOME` (default `.sfda`), made if absent, closed to other users.

    Raises BadInput where it cannot be written to, where others could write to it, and, unless
    `$SFDA_HOME` names it, where no command of this user has made it; and for a `?` in its path: in
    the addresses of databases the path ends there, and they would be elsewhere.
    """
    folder = state_folder()
    if "?" in str(folder) and not _private.get():
        raise BadInput(
            f"the path of SFDA_HOME {folder} has a '?', at which the address of a database ends; "
            "set SFDA_HOME to a folder without one"
        )
    if not os.environ.get("SFDA_HOME") and not _private.get():
        refuse_brought_home(folder)
    try:
        new = not folder.exists() or not any(folder.iterdir())
        private_folder(folder)
        with tempfile.TemporaryFile(dir=folder):
            pass
        if new and not _private.get():
            with suppress(FileExistsError):  # another command has made it meanwhile
                mark_new(folder)
    except OSError as error:
        raise BadInput(
            f"cannot write to SFDA_HOME {folder} ({os.strerror(error.errno or errno.EIO)}); "
            "set SFDA_HOME to a folder you may write to"
        ) from error
    return folder


def private_folder(folder: Path) -> None:
    """Make a folder that its owner alone can enter, or close one of ours that others can.

    Raises BadInput for a folder of another user, or one into which others have put something.
    """
    folder.mkdir(0o700, parents=True, exist_ok=True)
    now = refuse_folder_of_others(folder)
    if now.st_mode & 0o077 and now.st_uid == os.geteuid():
        close_to_others(folder, stat.S_IMODE(now.st_mode))
        log.warning("%s was open to other users and is closed to them now", folder)


def private_file(file: Path) -> None:
    """Make an empty file that its owner alone can read, or close one of ours that others can."""
    flags = os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        descriptor = os.open(file, flags, 0o600)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise BadInput(f"{file} is a link, which is not followed; move it away") from None
    try:
        now = os.fstat(descriptor)
        if now.st_mode & 0o077 and now.st_uid == os.geteuid():
            os.fchmod(descriptor, 0o600)
    finally:
        os.close(descriptor)


def log_file(file: Path, *, go_on: bool = False) -> BinaryIO:
    """A log, made anew or, where it is to `go_on`, longer; its owner's alone, and never by a link,
    for which it raises BadInput."""
    file.parent.mkdir(0o700, parents=True, exist_ok=True)
    return open_own(file, os.O_WRONLY | (os.O_APPEND if go_on else os.O_TRUNC), 0o600)


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
        if error.errno in NO_RIGHT:
            remedy = remedy.replace(MAKE_ROOM, MAY_WRITE)
        raise BadInput(f"cannot write {what}: {os.strerror(error.errno or 0)}; {remedy}") from error


def full_disk(folder: Path) -> str | None:
    """What there is to say where the disk of a folder has no room for anything; else None."""
    free = shutil.disk_usage(folder).free
    if free >= LEAST_FREE:
        return None
    return f"the disk of {folder} is full: {free:,} bytes are free; {REMEDY}"


@contextmanager
def one_at_a_time(folder: Path) -> Iterator[None]:
    """Let no second process do the same work meanwhile: it waits, and then finds it done.

    Raises BadInput where one outside of the home has waited in vain.
    """
    with _locked(folder, fcntl.LOCK_EX):
        yield


@contextmanager
def if_nobody_works(folder: Path) -> Iterator[bool]:
    """The same without waiting: false where another process does that work."""
    with ExitStack() as stack:
        try:
            stack.enter_context(_locked(folder, fcntl.LOCK_EX | fcntl.LOCK_NB))
            free = True
        except BlockingIOError:
            free = False
        yield free


@contextmanager
def _locked(folder: Path, how: int) -> Iterator[None]:
    folder.parent.mkdir(parents=True, exist_ok=True)
    file = folder.with_suffix(".lock")
    while True:
        with open_own(file, os.O_WRONLY, 0o666) as lock:
            if how & fcntl.LOCK_NB or file.absolute().is_relative_to(state_folder()):
                fcntl.flock(lock, how)
            elif not lock_within(lock.fileno(), LOCK_PATIENCE):
                raise BadInput(
                    f"{file} is locked by another process; wait for its end, or, if it is "
                    "another user's, work with a copy in a folder of your own"
                )
            try:
                same = os.path.samestat(os.fstat(lock.fileno()), os.lstat(file))
            except FileNotFoundError:
                same = False
            if same:
                yield
                return
        # `sfda clean` has deleted it meanwhile: others lock a new one


class Stamp(NamedTuple):
    """What tells that a file is as it was, without a look inside; times in nanoseconds.

    `changed` is the kernel's own note: a program cannot set it back as it can `modified`.
    """

    size: int
    modified: int
    changed: int
    inode: int

    @property
    def settled(self) -> bool:
        """Whether the last change is so old that another one would show."""
        return time.time_ns() - max(self.modified, self.changed) >= SETTLED * 1e9


def stamp_of(path: Path | str) -> Stamp:
    """The stamp of a file, links followed. Raises OSError."""
    return as_stamp(os.stat(path))


def as_stamp(status: os.stat_result) -> Stamp:
    """The stamp in a file's status."""
    inode = status.st_ino & (2**63 - 1)  # SQLite has no larger numbers
    return Stamp(status.st_size, status.st_mtime_ns, status.st_ctime_ns, inode)
