"""Files and folders on disk, manifests above all: never half-written, and nothing left of kills.

What is to take its place whole is made in a folder beside it, which is locked while its writer
lives: the system lets go of a lock however a process ends. So the next writer of the same name can
tell what nobody will finish any more, and removes it.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from sfda.errors import BadInput
from sfda.state_folder import named_by_a_person
from sfda.strangers import lock_within

FOLDER_PATIENCE = 5.0  # seconds for whoever begins, or sweeps, in the same folder
NAME_IN_PART = 40  # characters, as file systems bound the whole
YAML_MARK = b"# made by sfda; as it was made, the rest has the sha256 %s\n"
JSON_MARK = b'{"info": {"description": "made by sfda", "sha256": "%s"}, '
DIGEST = rb"([0-9a-f]{64})"


@contextmanager
def partial_folder(parent: Path, name: str) -> Iterator[Path]:
    """A new folder in `parent`, its owner's alone, for what will be called `name`. Whatever is left
    of it afterwards is removed, and what killed writers left before. Raises OSError.
    """
    with _swept(parent, name) as prefix:
        folder = Path(tempfile.mkdtemp(dir=parent, prefix=prefix))
        lock = _locked(folder, FOLDER_PATIENCE)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        _unlock(lock)


def sweep_beside(files: Iterable[Path]) -> None:
    """Remove what killed writers have left beside files that need not be written any more."""
    for path in files:
        with suppress(OSError), _swept(path.parent, path.name):
            pass


@contextmanager
def _swept(parent: Path, name: str) -> Iterator[str]:
    """How parts of `name` are called in `parent`, where none is abandoned and none begins."""
    parent_lock = _locked(parent, FOLDER_PATIENCE)  # another user may hold it, who can read it
    prefix = f".{name[:NAME_IN_PART]}.part-"
    try:
        for path in parent.iterdir() if parent_lock is not None else ():
            if path.name.startswith(prefix):
                _remove_abandoned(path)
        yield prefix
    finally:
        _unlock(parent_lock)


def _remove_abandoned(folder: Path) -> None:
    lock = None if folder.is_symlink() else _locked(folder, 0)
    if lock is not None:
        shutil.rmtree(folder, ignore_errors=True)
        _unlock(lock)


def _locked(folder: Path, seconds: float) -> int | None:
    """The descriptor that holds the lock; None where another has it so long, or there are none."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        locked = False
        try:
            locked = lock_within(descriptor, seconds)
        finally:
            if not locked:
                os.close(descriptor)
        return descriptor if locked else None
    return None


def _unlock(descriptor: int | None) -> None:
    if descriptor is not None:
        os.close(descriptor)


def put(files: dict[Path, bytes]) -> None:
    """Write all files in folders beside them, then move each into its place, in this order."""
    parts: dict[Path, Path] = {}
    temporary: dict[Path, Path] = {}
    with ExitStack() as stack:
        for path, content in files.items():
            if path.parent not in parts:
                beside = partial_folder(path.parent, path.name)
                parts[path.parent] = stack.enter_context(beside)
            part = parts[path.parent] / path.name
            part.write_bytes(content)
            with named_by_a_person(path) as umask:
                part.chmod(0o666 & ~umask)
            temporary[path] = part
        for path, part in temporary.items():
            part.replace(path)


def write_files(files: dict[Path, bytes], out: Path) -> None:
    """`put`, the folder of `out` made first, which is marked as made here.

    Raises BadInput that names `out`, and where another file would be replaced than one that was
    made so and that nobody has changed.
    """
    try:
        refuse_replacing(files, out)
        with named_by_a_person(out):
            out.parent.mkdir(parents=True, exist_ok=True)
        put({**files, out: _marked(files[out])})
    except OSError as error:
        raise BadInput(f"cannot write {out}: {error}") from None


def _marked(content: bytes) -> bytes:
    """A text of YAML or a JSON object with a mark that tells whether the rest was changed."""
    rest, mark = (content[1:], JSON_MARK) if content.startswith(b"{") else (content, YAML_MARK)
    return mark % hashlib.sha256(rest).hexdigest().encode() + rest


def is_as_made(file: Path) -> bool:
    """Whether a file has the mark, and nobody has changed it since."""
    with file.open("rb") as opened:
        start = opened.read(len(JSON_MARK) + 64)
        for mark in (YAML_MARK, JSON_MARK):
            pattern = re.escape(mark).replace(rb"%s", DIGEST)
            if made := re.match(pattern, start):
                opened.seek(made.end())
                return hashlib.file_digest(opened, "sha256").hexdigest() == made[1].decode()
    return False


def refuse_replacing(files: Mapping[Path, bytes], out: Path) -> None:
    """Raise BadInput where `files`, of which `out` is the one that a person named, would take the
    place of anything but what was made by an earlier call and is as it was made.
    """
    old = out.read_bytes() if out.is_file() and is_as_made(out) else None
    for path, content in files.items():
        if not os.path.lexists(path):
            continue
        if path.is_symlink() or not path.is_file():
            kind = "a link" if path.is_symlink() else "no file"
            raise BadInput(f"{path} is {kind}; name another file than {out}")
        if path == out:
            ours = old is not None
        else:
            ours = old is not None and _file_digest(path).encode() in old
        if not ours and _file_digest(path) != hashlib.sha256(content).hexdigest():
            raise BadInput(
                f"{path} exists, and was not made by such a command, or was changed since; "
                f"name another file than {out}, or remove it"
            )


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def refuse_other_suffix(out: Path) -> None:
    """BadInput unless `out` is named like a manifest."""
    if out.suffix not in (".yaml", ".yml"):
        raise BadInput(f"a manifest is a .yaml file, {out} is not named like one")


def relative_root(root: Path, folder: Path) -> str:
    """`root` as a manifest in `folder` names it: with a leading dot, both resolved already."""
    relative = Path(os.path.relpath(root, folder)).as_posix()
    return relative if relative.startswith(".") else f"./{relative}"
