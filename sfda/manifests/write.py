"""Manifests and their row files on disk, never half-written."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from sfda.errors import BadInput
from sfda.state_folder import named_by_a_person


def put(files: dict[Path, bytes]) -> None:
    """Write all files under temporary names, then move each into its place, in this order."""
    temporary: dict[Path, Path] = {}
    try:
        for path, content in files.items():
            handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
            temporary[path] = Path(name)
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            with named_by_a_person(path) as umask:
                temporary[path].chmod(0o666 & ~umask)
        for path, name_ in temporary.items():
            name_.replace(path)
    finally:
        for leftover in temporary.values():
            leftover.unlink(missing_ok=True)


def write_files(files: dict[Path, bytes], out: Path) -> None:
    """`put`, the folder of `out` made first. Raises BadInput that names `out`."""
    try:
        with named_by_a_person(out):
            out.parent.mkdir(parents=True, exist_ok=True)
        put(files)
    except OSError as error:
        raise BadInput(f"cannot write {out}: {error}") from None


def refuse_other_suffix(out: Path) -> None:
    """BadInput unless `out` is named like a manifest."""
    if out.suffix not in (".yaml", ".yml"):
        raise BadInput(f"a manifest is a .yaml file, {out} is not named like one")


def relative_root(root: Path, folder: Path) -> str:
    """`root` as a manifest in `folder` names it: with a leading dot, both resolved already."""
    relative = Path(os.path.relpath(root, folder)).as_posix()
    return relative if relative.startswith(".") else f"./{relative}"
