"""What others may have put into a folder that is to be ours alone: other users of this machine, and
whoever packed what was unpacked here.
"""

from __future__ import annotations

import errno
import fcntl
import math
import os
import secrets
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, TextIO

from sfda.errors import BadInput, shell_command

LEVELS = 2  # that are looked at, but for these, which are looked at whole:
WHOLE = ("prefect", "secrets", "run", "logs")
SHOWN = 3
LOCK_PAUSE = 0.02  # seconds between two looks at a lock
MADE_HERE = "made-here"  # file of a home that a command has made, where nothing was before


def refuse_folder_of_others(folder: Path) -> os.stat_result:
    """The status of a folder of ours, or root's. Raises BadInput for one of another user, one that
    all may write to, or one behind a link that another user made; OSError where there is none.
    """
    now = folder.stat()
    remedy = "set SFDA_HOME to a folder of your own"
    if not _is_ours(folder.lstat()) or not _is_ours(now):
        raise BadInput(f"{folder} belongs to another user, who may change what is in it; {remedy}")
    shared = now.st_mode & stat.S_ISVTX or now.st_uid != os.geteuid()
    if now.st_mode & stat.S_IWOTH and shared:
        raise BadInput(f"{folder} is a folder that all users write to; {remedy}")
    return now


def refuse_brought_home(folder: Path) -> None:
    """Make a home that nobody has named, or see by its mark that a command of this user made it.

    What lies in a home is obeyed: settings of libraries, addresses, results. An archive may bring
    one along, which its user unpacks as their own; its mark is in no list of theirs. Raises
    BadInput for such a home.
    """
    remedy = f"export SFDA_HOME={shell_command(folder)}"
    try:
        state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
        record = state.absolute() / "sfda" / "homes"
        record.parent.mkdir(0o700, parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        with os.fdopen(os.open(record, flags, 0o600), "r+", encoding="utf-8") as homes:
            fcntl.flock(homes, fcntl.LOCK_EX)
            known = _mark_in(folder)
            if known and f"{known} {folder}\n" in homes.readlines():
                return
            if not folder.exists() or not any(folder.iterdir()):
                _mark(folder, homes)
                return
    except (OSError, RuntimeError) as error:  # the latter of a user without a home folder
        raise BadInput(
            f"the home {folder} cannot be told from one that was unpacked here, since no list of "
            f"homes can be kept ({error}); {remedy}"
        ) from error
    raise BadInput(
        f"{folder} was made by no command of yours, or elsewhere, and what lies in a home is "
        f"obeyed; move it away, or, if you trust it: {remedy}"
    )


def _mark_in(folder: Path) -> str | None:
    """The mark of a home; None where there is none."""
    try:
        descriptor = os.open(folder / MADE_HERE, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        return file.read(64).decode("ascii", "replace").strip()


def _mark(folder: Path, homes: TextIO) -> None:
    """Make a home and its mark, and put both into the list."""
    folder.mkdir(0o700, parents=True, exist_ok=True)
    homes.write(f"{mark_new(folder)} {folder}\n")


def mark_new(folder: Path) -> str:
    """Write the mark of a home into a folder that holds nothing yet; the mark. Raises OSError."""
    mark = secrets.token_hex(16)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    with os.fdopen(os.open(folder / MADE_HERE, flags, 0o600), "w", encoding="ascii") as file:
        file.write(mark)
    return mark


def open_own(file: Path, flags: int, mode: int) -> BinaryIO:
    """A file to be written, made if absent with this mode, by no link. Raises OSError, and BadInput
    for a link, and for what is no regular file: a pipe would wait for ever.
    """
    flags |= os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        descriptor = os.open(file, flags, mode)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise BadInput(f"{file} is a link, which is not followed; move it away") from None
        if error.errno != errno.ENXIO:  # of a pipe or a socket
            raise
        descriptor = None
    if descriptor is None or not stat.S_ISREG(os.fstat(descriptor).st_mode):
        if descriptor is not None:
            os.close(descriptor)
        raise BadInput(f"{file} is no regular file; move it away")
    return os.fdopen(descriptor, "wb")


def lock_within(descriptor: int, seconds: float) -> bool:
    """Lock an opened file or folder, and wait for that no longer than so: whoever may read it can
    keep it locked for ever. Whether it is locked; raises OSError where nothing can be.
    """
    end = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= end:
                return False
        else:
            return True
        time.sleep(LOCK_PAUSE)


def refuse_unmarked(folder: Path) -> None:
    """Raise BadInput for a home that was made of a folder with other things: nothing of them is to
    be taken for ours.
    """
    if _mark_in(folder) is None:
        raise BadInput(
            f"{folder} held other things before it was SFDA_HOME, or was made by version 0.1, so "
            "nothing is deleted there; if all in it is sfda's: "
            f"touch {shell_command(folder / MADE_HERE)}"
        )


def close_to_others(folder: Path, mode: int) -> None:
    """Close a folder of ours that was open, and what is open in it.

    Raises BadInput where another user may have put something there, with the names; the folder has
    its `mode` again then, so that the next command looks anew.
    """
    folder.chmod(0o700)
    try:
        strange = list(_strange(folder, bool(mode & 0o022), LEVELS))
        if strange:
            names = ", ".join(map(str, strange[:SHOWN]))
            more = f" and {len(strange) - SHOWN} more" if len(strange) > SHOWN else ""
            raise BadInput(
                f"{folder} was open to other users, and these are theirs or links: {names}{more}; "
                "look at them and move them away, then start the same command again"
            )
    except BaseException:
        folder.chmod(mode)
        raise


def _strange(folder: Path, writable: bool, levels: float) -> Iterator[Path]:
    """What is another user's, and links, hard ones too, that one may have made here, so deep."""
    for entry in sorted(folder.iterdir()):
        now = entry.lstat()
        is_link = stat.S_ISLNK(now.st_mode) or (stat.S_ISREG(now.st_mode) and now.st_nlink > 1)
        if not _is_ours(now) or (writable and is_link):
            yield entry
        elif stat.S_ISDIR(now.st_mode):
            open_now = bool(now.st_mode & 0o022)
            if open_now and now.st_uid == os.geteuid():
                entry.chmod(stat.S_IMODE(now.st_mode) & ~0o022)  # who is inside may write no more
            below = math.inf if entry.name in WHOLE else levels - 1
            if below > 0:
                yield from _strange(entry, writable or open_now, below)


def _is_ours(status: os.stat_result) -> bool:
    return status.st_uid in (os.geteuid(), 0)
