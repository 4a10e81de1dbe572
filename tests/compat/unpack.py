"""Unpacks a home of an earlier version and lets it lie in another folder than it was made in.

The builder used `move` to put `/fixture` for its own folder, the tests use it to put theirs.
Nothing of sfda is imported: what is known here of a home is how its files name folders.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import sqlite3
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path

import torch
import yaml

HERE = "/fixture"  # stands in the archive where the folder's own address belongs
FOLDER = Path(__file__).absolute().parent
HOME = FOLDER / "home-0.1.0.tar.xz"
CODE = FOLDER / "code-0.1.0.tar.xz"  # the copy of the library that every registered version has


def unpack(folder: Path) -> Path:
    """The home and all that belongs to it in `folder`, as if it had been made there."""
    for archive in (HOME, CODE):
        with tarfile.open(archive) as packed:
            packed.extractall(folder, filter="data")
    code = folder / "code"
    for version in (folder / "home" / "mlartifacts" / "models").iterdir():
        shutil.copytree(code, version / "artifacts" / "code", copy_function=os.link)
    shutil.rmtree(code)
    move(folder, HERE, str(folder))
    return folder


def move(folder: Path, old: str, new: str) -> None:
    """Let `folder`, whose files say that it lies at `old`, lie at `new`."""
    put(folder, old, new)
    for file, key in keyed(folder, new):
        file.rename(file.with_name(f"{key[:24]}.json"))


def put(folder: Path, old: str, new: str) -> None:
    """Put `new` for `old` in all texts, databases and states of runs below `folder`.

    A digest that is stated of a changed file is changed as well.
    """
    changes = {old: new}
    while changes:
        digests = {}
        for file in _files(folder):
            before = file.read_bytes()
            after = _changed(before, changes)
            if after != before:
                _rewrite(file, after)
                digests[_digest(before)] = _digest(after)
        for database in folder.rglob("*.db"):
            _change_database(database, changes)
        changes = digests


def keyed(folder: Path, address: str) -> Iterator[tuple[Path, str]]:
    """Files of the home that are named after an address, and what a folder at `address` needs."""
    for file in sorted((folder / "home" / "requests").glob("*.json")):
        asked = {"folder": json.loads(file.read_text())["folder"]}
        yield file, _digest(json.dumps(asked, sort_keys=True).encode())
    for file in sorted((folder / "home" / "answers").glob("*.json")):
        manifest = json.loads(file.read_text())["sources"][-1]["manifest"]
        lies = folder / os.path.relpath(manifest, address)
        document = yaml.safe_load(lies.read_text())
        images = os.path.join(os.path.dirname(manifest), document["root"])
        if "archive" in document:
            images = os.path.join(images, document["archive"]["file"])
        yield file, _digest(f"{document['problem']} {os.path.normpath(images)}".encode())


def _files(folder: Path) -> Iterator[Path]:
    """All files but databases, and copies of our code, which name no folder."""
    for above, folders, names in os.walk(folder):
        if "code" in folders:
            folders.remove("code")
        yield from (Path(above, name) for name in sorted(names) if not name.endswith(".db"))


def _changed(content: bytes, changes: Mapping[str, str]) -> bytes:
    if not any(old.encode() in content for old in changes):
        return content
    if content[:2] == b"PK":
        return _changed_state(content, changes)
    text = content.decode()
    for old, new in changes.items():
        text = text.replace(old, new)
    return text.encode()


def _changed_state(content: bytes, changes: Mapping[str, str]) -> bytes:
    """A state.pt: addresses stand in the history of its epochs."""
    state = torch.load(io.BytesIO(content), weights_only=True)
    for old, new in changes.items():
        state["history"] = state["history"].replace(old, new)
    written = io.BytesIO()
    torch.save(state, written)
    return written.getvalue()


def _rewrite(file: Path, content: bytes) -> None:
    """Another content, of the same age."""
    stat = file.stat()
    file.write_bytes(content)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def _change_database(file: Path, changes: Mapping[str, str]) -> None:
    with closing(sqlite3.connect(file)) as database, database:
        tables = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        for (table,) in tables:
            columns = database.execute(f'PRAGMA table_info("{table}")').fetchall()
            for name in (column[1] for column in columns):
                for change in changes.items():
                    database.execute(
                        f'UPDATE "{table}" SET "{name}" = replace("{name}", ?, ?) '
                        f'WHERE typeof("{name}") = \'text\' AND instr("{name}", ?)',
                        (*change, change[0]),
                    )


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
