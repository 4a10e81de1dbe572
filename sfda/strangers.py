"""What other users of this machine may have put into a folder that is to be ours alone."""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from sfda.errors import BadInput

LEVELS = 2  # that are looked at, but for these, which are looked at whole:
WHOLE = ("prefect", "secrets", "run", "logs")
SHOWN = 3


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
    """What is another user's, and links that another user may have moved here, so deep."""
    for entry in sorted(folder.iterdir()):
        now = entry.lstat()
        if not _is_ours(now) or (writable and stat.S_ISLNK(now.st_mode)):
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
