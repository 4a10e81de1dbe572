"""What a start that was killed has left of a piece of work: processes, and folders of its own.

Who kills a command (SIGKILL, the machine short of memory) ends the process that it made, by its
death signal, but not what that one has started. So the group is noted beside its folder, where the
group itself cannot write, and the next start ends it before it looks at anything.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Literal, NamedTuple

AS_ANOTHER = stat.S_ISUID | stat.S_ISGID
UNTIL_GONE = 5.0  # seconds until killed processes are gone


class ProcessFacts(NamedTuple):
    """What the kernel says of a process."""

    state: str  # Z and X have ended
    group: int
    session: int
    started: int  # in ticks since the machine's start
    environment: tuple[int, int]  # where the block lies that it was started with


def facts_of(pid: int | Literal["self"]) -> ProcessFacts | None:
    """Of a process; None of one that is gone, and where the system is not Linux."""
    try:  # in brackets stands its name, which may hold anything
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    group, session, started, first, end = (int(fields[n]) for n in (2, 3, 19, 47, 48))
    return ProcessFacts(fields[0], group, session, started, (first, end))


def live_processes() -> Iterator[tuple[int, ProcessFacts]]:
    """Number and facts of all that have not ended."""
    for name in filter(str.isdigit, os.listdir("/proc")):
        facts = facts_of(int(name))
        if facts and facts.state not in "ZX":
            yield int(name), facts


class _Group(NamedTuple):
    """Processes, in a way that no later ones answer to."""

    leader: int
    started: int  # of the leader, in ticks since the machine's start
    session: int
    parent: int
    parent_started: int
    machine: str  # the machine's start and the namespace of process numbers


def end_group(pid: int) -> None:
    """Kill a process and all that it has started, which stays in the group of its number."""
    for kill in (os.killpg, os.kill):
        with suppress(ProcessLookupError, PermissionError):
            kill(pid, signal.SIGKILL)


def note_group(folder: Path, leader: int) -> None:
    """Note that a process of this one works in a folder. Raises OSError if it cannot be written."""
    own, other = facts_of(os.getpid()), facts_of(leader)
    if own is None or other is None:  # it has ended already
        return
    numbers = (leader, other.started, other.session, os.getpid(), own.started)
    _note(folder).write_text(json.dumps([*numbers, _machine()]))


def end_earlier(folder: Path) -> bool:
    """End what works in a folder since an earlier start, if anything does.

    False, and nothing is done, where the process that started it lives, and is not this one.
    """
    note = _note(folder)
    try:
        group = _Group(*json.loads(note.read_text()))
        if group.machine == _machine():
            parent = facts_of(group.parent)
            if parent and parent.started == group.parent_started != _own_start(group):
                return False
            _end_all(group)
    except (OSError, ValueError, TypeError):  # none, or not written to its end
        pass
    note.unlink(missing_ok=True)
    return True


def _own_start(group: _Group) -> int | None:
    """When the parent started, if that is this process."""
    return group.parent_started if group.parent == os.getpid() else None


def _end_all(group: _Group) -> None:
    until = time.monotonic() + UNTIL_GONE
    while any(_members(group)) and time.monotonic() < until:
        end_group(group.leader)
        time.sleep(0.01)


def _members(group: _Group) -> Iterator[int]:
    """The processes of a group that still live; none where its number is another's by now."""
    leader = facts_of(group.leader)
    if leader and leader.started != group.started:
        return
    for pid, facts in live_processes():
        same = (facts.group, facts.session) == (group.leader, group.session)
        if same and facts.started >= group.started:
            yield pid


def _note(folder: Path) -> Path:
    return folder.with_suffix(".group")


def _machine() -> str:
    start = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{start} {os.readlink('/proc/self/ns/pid')}"


def drop_identities(top: Path) -> None:
    """Let no file below a folder run as its owner or group, whoever starts it. No link is followed;
    what lies deeper than a path reaches stays as it is."""
    waiting = [top]
    while waiting:
        with suppress(OSError), os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(Path(entry.path))
                elif entry.stat(follow_symlinks=False).st_mode & AS_ANOTHER:
                    _drop_identity(entry.path)


def _drop_identity(path: str) -> None:
    with suppress(OSError):
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            about = os.fstat(handle)
            if stat.S_ISREG(about.st_mode):
                os.fchmod(handle, stat.S_IMODE(about.st_mode) & ~AS_ANOTHER)
        finally:
            os.close(handle)


def remove_tree(top: Path) -> None:
    """Delete a folder, however deep; what cannot be deleted stays. No link is followed, and a file
    system that somebody has mounted there is left as it is.

    Folders are moved up before they are emptied, so that neither paths nor the stack grow.
    """
    try:
        device = top.lstat().st_dev
    except OSError:
        return
    mark, waiting = secrets.token_hex(8), [top]
    for number, folder in enumerate(_each(waiting)):
        with suppress(OSError):
            folder.chmod(0o700)
        entries: list[os.DirEntry[str]] = []
        with suppress(OSError), os.scandir(folder) as opened:
            entries = list(opened)
        for index, entry in enumerate(entries):
            with suppress(OSError):
                if not entry.is_dir(follow_symlinks=False):
                    os.unlink(entry.path)
                    continue
                if entry.stat(follow_symlinks=False).st_dev != device:
                    continue
                os.chmod(entry.path, 0o700)
                upper = top / f"{mark}.{number}.{index}"
                os.rename(entry.path, upper)
                waiting.append(upper)
        if folder != top:
            with suppress(OSError):
                folder.rmdir()
    with suppress(OSError):
        top.rmdir()


def _each(waiting: list[Path]) -> Iterator[Path]:
    """The last one, until there is none; a link is deleted instead."""
    while waiting:
        path = waiting.pop()
        if path.is_symlink():
            path.unlink()
        else:
            yield path
