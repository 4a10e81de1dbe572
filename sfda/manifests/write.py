"""Manifests and their row files on disk, never half-written."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path

from sfda.errors import BadInput
from sfda.manifests.partial import partial_folder
from sfda.state_folder import named_by_a_person


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
