"""Old versions of growing targets, and old audits that nobody has answered.

A target's folder gets a version at every change, with a list of all its files; a verdict of "hold"
leaves an audit ready. Both would grow without end.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator
from pathlib import Path

from sfda.documents import parse_json
from sfda.errors import BadInput
from sfda.retention.home_files import OldEntry, Rule, disk_use, is_mounted_on, last_used
from sfda.retention.policy import RetentionPolicy
from sfda.retention.references import PEOPLE_S_WORK, VERSION_FILE, entry_below, references

TARGETS = Rule("target versions", "change")
AUDITS = Rule("audits without answers", "change")
AUDIT_NAME = re.compile(r"(.+)-[0-9]+(-week[0-9]+)?|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
ANSWERS_NAME = re.compile(r"answers(\..+)?\.json")
STATE_BYTES = 1 << 30  # bytes of a target's state: 10 million files


def old_target_files(
    home: Path, policy: RetentionPolicy, needed: Collection[str], now: float
) -> tuple[list[OldEntry], list[str]]:
    """Files of old versions of growing targets that may go, and lines on what is old and stays.

    The newest stay, the one that was last adapted to, and what is `needed`, as
    `targets/site/v0003`.
    """
    entries: list[OldEntry] = []
    left: list[str] = []
    for folder in _folders(home / "targets"):
        versions = _versions(folder)
        newest = sorted(versions, key=int)[-max(1, policy.keep) :]
        try:
            stays = {*newest, *_current(home, folder)}
        except BadInput as error:
            left.append(str(error))
            continue
        for number, files in versions.items():
            name = f"targets/{folder.name}/v{number}"
            old = all(last_used(file, TARGETS) < policy.cutoff(now) for file in files)
            if number in stays or not old:
                continue
            if name in needed:
                left.append(f"{name} is needed")
                continue
            entries += [
                _entry(file, TARGETS, policy.cutoff(now), folder / "lock") for file in files
            ]
    return entries, left


def old_audits(home: Path, policy: RetentionPolicy, now: float) -> list[OldEntry]:
    """Audits below the home that nobody has answered, which no document names, and which are
    neither among the newest of a model nor new. Raises BadInput as `references` does.
    """
    named = references(home, PEOPLE_S_WORK).entries
    groups: dict[str, list[Path]] = {}
    for folder in _folders(home / "audits"):
        if match := AUDIT_NAME.fullmatch(folder.name):
            groups.setdefault(match[1] or "", []).append(folder)
    entries = []
    for folders in groups.values():
        folders.sort(key=lambda folder: last_used(folder, AUDITS), reverse=True)
        for folder in folders[policy.keep :]:
            is_old = last_used(folder, AUDITS) < policy.cutoff(now)
            if is_old and f"audits/{folder.name}" not in named and not _is_answered(folder):
                lock = folder / ".answers.lock"
                entries.append(_entry(folder, AUDITS, policy.cutoff(now), lock))
    return entries


def _folders(top: Path) -> Iterator[Path]:
    """Folders of ours, neither links nor on another file system."""
    if top.is_symlink() or not top.is_dir():
        return
    device = top.lstat().st_dev
    for name in sorted(os.listdir(top)):
        path = top / name
        is_folder = path.is_dir() and not path.is_symlink() and not name.startswith(".")
        if is_folder and not is_mounted_on(path, device):
            yield path


def _versions(folder: Path) -> dict[str, list[Path]]:
    """Files of a target's versions by number, as `0003`."""
    versions: dict[str, list[Path]] = {}
    for name in sorted(os.listdir(folder)):
        match = VERSION_FILE.fullmatch(name)
        if match and not (folder / name).is_symlink():
            versions.setdefault(match[1], []).append(folder / name)
    return versions


def _current(home: Path, folder: Path) -> Iterator[str]:
    """Numbers that a target's state names. Raises BadInput where it cannot be read."""
    file = folder / "state.json"
    try:
        if file.is_symlink() or not file.is_file() or file.stat().st_size > STATE_BYTES:
            raise ValueError
        state = parse_json(file.read_bytes())
        if not isinstance(state, dict):
            raise ValueError
        numbers = [state[name] for name in ("version", "adapted")]
        path = (state["manifest"] or {}).get("path", "")
        if not all(type(number) is int for number in numbers) or not isinstance(path, str):
            raise ValueError
    except (OSError, ValueError, KeyError, AttributeError):
        raise BadInput(f"targets/{folder.name} has no readable state.json") from None
    yield from (f"{number:04d}" for number in numbers)
    yield entry_below(home, path).rpartition("/v")[2]


def _is_answered(folder: Path) -> bool:
    return any(ANSWERS_NAME.fullmatch(name) for name in os.listdir(folder))


def _entry(path: Path, rule: Rule, before: float, lock: Path) -> OldEntry:
    return OldEntry(path, rule.kind, rule, disk_use(path), before, lock)
