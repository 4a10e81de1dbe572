"""What requests, audits, monitors and growing targets below a home refer to."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from sfda.documents import parse_json
from sfda.errors import BadInput

PEOPLE_S_WORK = ("requests", "answers", "monitors", "pipelines")
DOCUMENTS = (*PEOPLE_S_WORK, "audits")
ELSEWHERE = ("request.json", "audit.json")  # in the folder that a note names
DOCUMENT_BYTES = 64 << 20  # bytes of a document
MOST_DEPTH = 4  # folders below those above
VERSION_FILE = re.compile(r"v([0-9]{4,9})(-new)?\..+")  # of a growing target, in its folder


class References(NamedTuple):
    """Addresses of models and runs, and entries of folders below the home: `runs/1f2e`, and
    `targets/site/v0003` for any file of a target's version.
    """

    addresses: frozenset[str]
    entries: frozenset[str]


def references(
    home: Path, folders: Collection[str] = DOCUMENTS, without: Collection[Path] = ()
) -> References:
    """What the documents of people's work name, and those of folders elsewhere that they name.

    Looked at is what lies in these `folders` below the home, but for what lies in `without`. Raises
    BadInput for a document that cannot be read: what it needs is not known then.
    """
    files = [file for name in folders for file in _json_files(home / name)]
    documents = [_document(file) for file in files if not _lies_in_any(file, without)]
    texts = {text for _, text in _texts(documents)}
    for folder in {Path(text) for key, text in _texts(documents) if key == "folder"}:
        if folder.is_absolute() and not folder.is_relative_to(home):
            more = [_document(folder / name) for name in ELSEWHERE]
            texts |= {text for _, text in _texts(more)}
    return References(
        frozenset(text for text in texts if text.startswith(("models:/", "runs:/"))),
        frozenset(_entries(home, texts)),
    )


def _entries(home: Path, texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        if entry := entry_below(home, text):
            yield entry


def entry_below(home: Path, text: str) -> str:
    """The entry below the home, as `runs/1f2e` or `targets/site/v0003`, that the path `text` leads
    to, by whatever name it or the home is called; empty where it leads elsewhere, or is no path.
    """
    if not text.startswith("/") or "\0" in text:
        return ""
    for top, path in ((str(home), text), (os.path.realpath(home), os.path.realpath(text))):
        if path.startswith(f"{top}/"):
            parts = path.removeprefix(f"{top}/").split("/")[:3]
            version = VERSION_FILE.fullmatch(parts[2]) if parts[2:] else None
            if parts[0] == "targets" and version:
                return f"targets/{parts[1]}/v{version[1]}"
            return "/".join(parts[:2])
    return ""


def _lies_in_any(file: Path, folders: Collection[Path]) -> bool:
    return any(file.is_relative_to(folder) for folder in folders)


def _json_files(folder: Path, depth: int = MOST_DEPTH) -> Iterator[Path]:
    """Regular files below a folder; no link is followed."""
    if depth == 0 or folder.is_symlink() or not folder.is_dir():
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _json_files(Path(entry.path), depth - 1)
            elif entry.name.endswith(".json") and entry.is_file(follow_symlinks=False):
                yield Path(entry.path)


def _document(file: Path) -> object:
    unknown = f"{file} cannot be read, so what it needs is not known; repair it or move it away"
    try:
        handle = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(handle, "rb") as opened:
            status = os.fstat(handle)
            if not stat.S_ISREG(status.st_mode) or status.st_size > DOCUMENT_BYTES:
                raise BadInput(unknown)
            return parse_json(opened.read(DOCUMENT_BYTES))
    except (FileNotFoundError, NotADirectoryError):
        return None  # it was answered meanwhile, or moved
    except (OSError, ValueError) as error:
        raise BadInput(f"{unknown} ({error})") from None


def _texts(value: object) -> Iterator[tuple[str, str]]:
    """All texts in a document, at any depth, and the keys that they stand under."""
    waiting = [("", value)]
    while waiting:
        key, part = waiting.pop()
        if isinstance(part, str):
            yield key, part
        elif isinstance(part, dict):
            waiting.extend(part.items())
        elif isinstance(part, list):
            waiting.extend((key, one) for one in part)
