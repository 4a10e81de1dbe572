"""Old files and folders below a home: which there are, and how they go.

No link is followed, nothing outside of the home is touched, nor what is not called as we call it:
a home may be a folder of a person who has other things there. What another process works at stays.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import stat
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal, NamedTuple

from sfda.retention.policy import DiskUse, RetentionPolicy
from sfda.sandbox.leftovers import remove_tree
from sfda.state_folder import if_nobody_works

OTHER = "requests, audits, targets, data, secrets"
LOCKED_CACHES = ("predictions", "guides", "parts", "cards", "priors", "imported", "rungs")
KIND_OF_TOP = {
    "mlartifacts": "MLflow",
    "mlflow.db": "MLflow",
    "prefect": "Prefect",
    "runs": "run folders",
    "reports": "reports",
    "pictures": "reports",
    "logs": "logs",
    **dict.fromkeys(("decoded", "fetched", *LOCKED_CACHES), "caches"),
    "digests.sqlite3": "caches",
}
VERSIONS = "registered versions"  # in mlartifacts/models


class Rule(NamedTuple):
    """How the entries of one folder age, and by what they are locked."""

    kind: str
    by: Literal["change", "use", "never"]  # a cache is used as long as it is read
    locked: bool = False  # by a file beside it, while somebody works at it


RULES = {
    "runs": Rule("run folders", "change", locked=True),
    "reports": Rule("reports", "change"),
    "pictures": Rule("reports", "change"),
    "logs": Rule("logs", "change"),
    "prefect/storage": Rule("kept results", "change"),
    "mlartifacts": Rule("leftovers", "never"),  # the store deletes there what it has rows of
    "mlartifacts/models": Rule("leftovers", "never"),
    "decoded": Rule("caches", "use"),
    "fetched": Rule("caches", "use"),
    **dict.fromkeys(LOCKED_CACHES, Rule("caches", "use", locked=True)),
}
LEFT_BEHIND = re.compile(r"\..+|.+\.sealed")  # what a killed command was writing
LEFT_AFTER = 86400.0  # seconds after which nobody writes it any more
REMOVED = ".removed."  # what a killed `sfda clean` was deleting
REPORT_DATE = re.compile(r"-\d{4}-\d\d-\d\d-\d{4}(-\d+)?$")
NAMES_OF_OURS = {
    "reports": re.compile(rf".+{REPORT_DATE.pattern}"),
    "logs": re.compile(r"(prefect|mlflow|proxy)\.log"),
}
OURS_ELSEWHERE = re.compile(
    r"(masks-|\.masks-|\.)?[0-9a-f]{24}([0-9a-f]{8})?([.-].*)?|tmp[a-z0-9_]{8}"
)
OURS_HALF_WRITTEN = re.compile(r"\.removed\.[0-9a-f]{12}|(\.fetching\.|\..+\.part-)[a-z0-9_]{8}")


class OldEntry(NamedTuple):
    """A file, or a folder as a whole, that may go."""

    path: Path
    kind: str  # what reports count it as
    rule: Rule
    size: DiskUse
    before: float  # it goes if it was not used since then: seconds since the epoch
    lock: Path | None = None  # a file that whoever works at it has locked


def size_by_kind(home: Path) -> dict[str, DiskUse]:
    """What a home holds. Links count as themselves."""
    sizes: dict[str, DiskUse] = {}
    for path, status in _files(home):
        top, _, rest = str(path.relative_to(home)).partition("/")
        kind = KIND_OF_TOP.get(re.sub(r"-(wal|shm)$", "", top), OTHER)
        if top == "mlartifacts" and rest.startswith("models/"):
            kind = VERSIONS
        sizes[kind] = sizes.get(kind, DiskUse()).plus(status.st_size)
    return sizes


def old_entries(
    home: Path, policy: RetentionPolicy, needed: Collection[str], now: float
) -> tuple[list[OldEntry], list[str]]:
    """What may go, and lines on what is old and stays. `needed` are entries, as `runs/1f2e`, that
    somebody refers to.
    """
    entries: list[OldEntry] = []
    left: list[str] = []
    for folder, rule in RULES.items():
        if any(part.is_symlink() for part in _parts(home, folder)):
            left.append(f"{folder} is a link, which is not followed")
            continue
        old = list(_old(home / folder, rule, policy, now))
        for entry in _but_newest(old, home / folder, policy.keep):
            if f"{folder}/{entry.path.name}" in needed:
                left.append(f"{folder}/{entry.path.name} is needed")
            elif entry.kind == "run folders" and _is_unfinished(entry.path):
                left.append(f"{folder}/{entry.path.name} can be taken up again")
            else:
                entries.append(entry)
    return entries, left


def delete_entry(entry: OldEntry) -> bool:
    """Delete it, whole or not at all to whoever looks; false where somebody works at it, or has
    used it meanwhile.
    """
    if entry.lock:
        with _if_free(entry.lock) as free:
            return free and _delete(entry)
    if not entry.rule.locked or entry.path.name.startswith("."):
        return _delete(entry)
    base = entry.path.with_suffix("")
    with if_nobody_works(base) as free:
        gone = free and _delete(entry)
        if gone and not base.exists():
            base.with_suffix(".lock").unlink(missing_ok=True)  # whoever waits takes a new one
    return gone


def delete_folder(home: Path, folder: Path) -> None:
    """Delete a folder below the home, if it is one: neither a link nor behind one."""
    top = top_above(home, folder)
    if top and not any(part.is_symlink() for part in _parts(top, str(folder.relative_to(top)))):
        _remove(folder)


def top_above(home: Path, folder: Path) -> Path | None:
    """The home as the path of a folder below it names it; None where that lies elsewhere."""
    for top in (home, Path(os.path.realpath(home))):
        if folder.is_relative_to(top) and folder != top and ".." not in folder.parts:
            return top
    return None


@contextmanager
def _if_free(lock: Path) -> Iterator[bool]:
    """Whether nobody holds a lock, which is held meanwhile; none is made where there is none."""
    try:
        handle = os.open(lock, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        yield error.errno == errno.ENOENT
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        free = True
    except OSError:
        free = False
    try:
        yield free
    finally:
        os.close(handle)


def _delete(entry: OldEntry) -> bool:
    if last_used(entry.path, entry.rule) >= entry.before:
        return False
    _remove(entry.path)
    return not os.path.lexists(entry.path)


def _remove(path: Path) -> None:
    """First its name goes, so that nobody takes a half of it for the whole."""
    with suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            hidden = path.with_name(f"{REMOVED}{secrets.token_hex(6)}")
            path.rename(hidden)
            remove_tree(hidden)
        else:
            path.unlink()


def _old(folder: Path, rule: Rule, policy: RetentionPolicy, now: float) -> Iterator[OldEntry]:
    cutoff = policy.cutoff(now)
    try:
        names = sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return
    present, device = set(names), folder.lstat().st_dev
    for name in names:
        path, kind, before = folder / name, rule.kind, cutoff
        if path.is_symlink() or (rule.by == "never" and not name.startswith(REMOVED)):
            continue
        if not _is_ours(folder.name, name):
            continue
        if name.endswith(".lock"):
            kind = "locks"
            if name.removesuffix(".lock") in present:
                continue
        elif name.startswith(REMOVED):
            kind, before = "leftovers", float("inf")
        elif LEFT_BEHIND.fullmatch(name):
            kind, before = "leftovers", max(cutoff, now - LEFT_AFTER)
        if last_used(path, rule) < before and not is_mounted_on(path, device):
            yield OldEntry(path, kind, rule, disk_use(path), before)


def _is_ours(folder: str, name: str) -> bool:
    """Whether a file or folder is called as those that we make there."""
    own = NAMES_OF_OURS.get(folder, OURS_ELSEWHERE)
    return bool(own.fullmatch(name) or OURS_HALF_WRITTEN.fullmatch(name))


def is_mounted_on(path: Path, device: int) -> bool:
    """Whether another file system begins at a path or below it: that is somebody else's."""
    waiting = [str(path)]
    while waiting:
        with suppress(OSError):
            top = waiting.pop()
            status = os.lstat(top)
            if status.st_dev != device:
                return True
            if stat.S_ISDIR(status.st_mode):
                with os.scandir(top) as entries:
                    waiting += [e.path for e in entries if e.is_dir(follow_symlinks=False)]
    return False


def _but_newest(old: list[OldEntry], folder: Path, most: int) -> Iterator[OldEntry]:
    """Of reports of one target by one method the newest stay, whatever their age."""
    if folder.name != "reports" or not old:
        yield from old
        return
    groups: dict[str, list[str]] = {}
    for name in sorted(os.listdir(folder), key=lambda name: _changed(folder / name), reverse=True):
        groups.setdefault(REPORT_DATE.sub("", name), []).append(name)
    newest = {name for names in groups.values() for name in names[:most]}
    yield from (entry for entry in old if entry.path.name not in newest)


def _is_unfinished(folder: Path) -> bool:
    """Whether a later start would go on from here: its history is written at the end."""
    return folder.suffix != ".lock" and not (folder / "history.json").is_file()


def last_used(path: Path, rule: Rule) -> float:
    """When an entry was last changed, or, of a cache, read; in seconds since the epoch. Systems
    note at least one reading a day.
    """
    times = [_changed(path)]
    for _, status in _files(path):
        times.append(max(status.st_mtime, status.st_atime if rule.by == "use" else 0.0))
    return max(times)


def _changed(path: Path) -> float:
    try:
        return path.lstat().st_mtime
    except FileNotFoundError:
        return float("-inf")


def disk_use(path: Path) -> DiskUse:
    """Of a file, or of all below a folder."""
    sizes = [status.st_size for _, status in _files(path)]
    return DiskUse(bytes=sum(sizes), files=len(sizes))


def _files(top: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """A file, or all below a folder; no link is followed, and what goes meanwhile is left out."""
    waiting = [top]
    while waiting:
        path = waiting.pop()
        with suppress(FileNotFoundError, NotADirectoryError, PermissionError):
            status = path.lstat()
            if stat.S_ISDIR(status.st_mode):
                waiting.extend(Path(entry.path) for entry in os.scandir(path))
            else:
                yield path, status


def _parts(home: Path, folder: str) -> Iterator[Path]:
    path = home
    for name in folder.split("/"):
        path = path / name
        yield path
