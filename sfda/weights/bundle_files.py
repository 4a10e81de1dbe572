"""The files of a bundle's folder: regular ones by name from a list, of bounded size, no others.

A bundle comes from elsewhere: a link in it would show what lies outside, a pipe would never end,
and what is not known is not carried on into a copy. Each file is opened once, and what was checked
of it is what is read.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from io import BufferedReader
from pathlib import Path

from sfda.bounds.limits import CARD_BYTES, CODE_BYTES, SPEC_BYTES, WEIGHTS_BYTES
from sfda.errors import BadInput, check_path
from sfda.refs import NetworkCode

WEIGHTS, SPEC, CARD_FILE = "weights.safetensors", "spec.json", "card.safetensors"
CODE_FILE = "network.py"  # the source of a network of somebody's own: run where a person trusts it
OF_SYSTEMS = (".DS_Store", "._*", ".nfs*")  # of macOS, and of files deleted while they are open
MIB = 2**20
MOST_BYTES = {
    SPEC: SPEC_BYTES,
    WEIGHTS: WEIGHTS_BYTES,
    CARD_FILE: CARD_BYTES,
    CODE_FILE: CODE_BYTES,
}


def check_files(folder: Path) -> None:
    """Raise BadInput for what no bundle holds: other files, folders, links, files too large."""
    check_path(folder)
    try:
        names = sorted(name for name in os.listdir(folder) if not is_of_system(name))
    except OSError as error:
        raise BadInput(f"{folder} is not a model bundle: {error.strerror}") from error
    if strange := [name for name in names if name not in MOST_BYTES]:
        more = f" and {len(strange) - 3} more" if len(strange) > 3 else ""
        raise BadInput(
            f"{folder} holds {', '.join(strange[:3])}{more} besides the model: a bundle has "
            f"{', '.join(MOST_BYTES)} and nothing else; move the rest away"
        )
    for name in names:
        try:
            status = os.lstat(folder / name)
        except OSError as error:
            raise BadInput(f"{folder / name} cannot be read: {error.strerror}") from error
        _check_status(folder / name, status)


def refuse_other_content(folder: Path) -> None:
    """Raise BadInput unless a bundle may take the place of what is there: nothing, an empty folder,
    or a bundle, also a damaged one, without other files beside it, which would be lost.
    """
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        kind = "a link" if folder.is_symlink() else "no folder"
        raise BadInput(f"{folder} is {kind}; name another folder")
    names = set(os.listdir(folder)) if folder.is_dir() else set[str]()
    own = {name for name in names if not is_of_system(name)}
    if own and not (SPEC in own and own <= MOST_BYTES.keys()):
        raise BadInput(f"{folder} holds something else than a model bundle; name another folder")


def is_of_system(name: str) -> bool:
    """Whether a system puts files of this name into every folder: they are no part of a bundle,
    and neither read nor copied.
    """
    return any(fnmatchcase(name, pattern) for pattern in OF_SYSTEMS)


@contextmanager
def opened(file: Path) -> Iterator[BufferedReader]:
    """A bundle's file, opened without following a link. Raises OSError or BadInput."""
    with os.fdopen(os.open(file, _FLAGS), "rb") as handle:
        _check_status(file, os.fstat(handle.fileno()))
        yield handle


def read_small(file: Path) -> bytes:
    """All of a bundle's file. Raises OSError or BadInput."""
    with opened(file) as handle:
        return handle.read(MOST_BYTES[file.name].most)


def file_sha256(file: Path) -> str:
    """The digest of a bundle's file, byte by byte. Raises OSError or BadInput."""
    with opened(file) as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def check_code(folder: Path, stated: NetworkCode | None) -> None:
    """Raise BadInput where a bundle's source file is not the one that its spec states."""
    file = folder / CODE_FILE
    try:
        digest = file_sha256(file) if os.path.lexists(file) else None
    except OSError as error:
        raise BadInput(f"{file} cannot be read: {error.strerror}") from error
    if digest != (stated.sha256 if stated is not None and stated.kind == "file" else None):
        raise BadInput(
            f"{file} is not the source that this model's spec states: it was changed, added or "
            "taken away after the model was written; take the whole bundle from where it was made"
        )


def copy_files(folder: Path, copy: Path) -> None:
    """A bundle's own files into a new folder, none through a link. Raises BadInput."""
    check_files(folder)
    copy.mkdir()
    for name in MOST_BYTES:
        if not os.path.lexists(folder / name):
            continue
        with opened(folder / name) as handle, open(copy / name, "xb") as out:
            shutil.copyfileobj(handle, out, 16 * MIB)


_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


def _check_status(file: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise BadInput(
            f"{file} is a link or no regular file: a bundle holds its files themselves; put a copy "
            "of the file in its place, if you know where it comes from"
        )
    limit = MOST_BYTES[file.name]
    if status.st_size > limit.most:
        raise BadInput(f"{file} has {limit.refusal(status.st_size)}")
