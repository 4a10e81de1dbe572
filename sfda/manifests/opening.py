"""A manifest file opened: read, and checked for what its keys say together."""

from __future__ import annotations

import functools
import time
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import ValidationError

from sfda.bounds.files import Unreadable, read_bounded
from sfda.bounds.limits import YAML_BYTES
from sfda.documents import cut_off, parse_yaml
from sfda.errors import BadInput, check_path, no_manifest, shell_command
from sfda.manifests.digests import bytes_digest
from sfda.manifests.schema import Manifest
from sfda.state_folder import Stamp, data_folder, stamp_of, state_folder


def open_manifest(path: Path | str, *, data_root: Path | None = None) -> Manifest:
    """Read the manifest at `path`; its root lies below `data_root` (None: $SFDA_DATA, or here).

    Raises BadInput if there is no such file, if it is not a manifest, or only a template of one.
    """
    path = Path(path)
    manifest = parse_manifest(path)
    if manifest.template:
        raise BadInput(
            f"{path} is a template: it names no files yet; point it at your copy of the data with "
            f"`{shell_command('sfda', 'manifest', 'FOLDER', '--template', path)} "
            f"--problem {manifest.problem} --out M.yaml`"
        )
    if PurePosixPath(manifest.root).is_absolute() and not is_ours(path):
        raise BadInput(
            f"{path}: root {manifest.root} is absolute, so it fits one machine only; "
            "write it below $SFDA_DATA, or relative to the manifest with a leading ./"
        )
    manifest._data_root = data_root or data_folder()
    return manifest


def parse_manifest(path: Path) -> Manifest:
    """The manifest or template at `path`, its data not looked at. Raises BadInput.

    It is read again only when the file has changed.
    """
    check_path(path)
    try:
        stamp = stamp_of(path)
    except OSError as error:
        raise _unreadable(path, error) from None
    once = None if stamp.settled else time.monotonic_ns()
    return _parsed(path, path.absolute(), stamp, once).model_copy()


@functools.lru_cache(maxsize=32)
def _parsed(path: Path, absolute: Path, stamp: Stamp, once: int | None) -> Manifest:
    """What a file says that has this stamp; `once` is another number where that may change."""
    try:
        content = read_bounded(path, YAML_BYTES)
        raw = parse_yaml(content)
    except OSError as error:
        raise _unreadable(path, error) from None
    except Unreadable as error:
        raise BadInput(f"{path} is not valid YAML: {error}") from None
    if not isinstance(raw, dict):
        raise BadInput(f"{path} is not a manifest: it needs keys such as name, root and splits")
    manifest = validated(raw, path)
    manifest._sha256 = bytes_digest(content)
    return manifest


def _unreadable(path: Path, error: Exception) -> BadInput:
    if isinstance(error, FileNotFoundError):
        return no_manifest(path)
    return BadInput(f"{path} cannot be read as a manifest: {error}")


def validated(raw: dict[str, Any], path: Path) -> Manifest:
    """What a manifest file at `path` says, if its keys go together. Raises BadInput."""
    try:
        manifest = Manifest.model_validate(raw)
    except ValidationError as error:
        raise BadInput(f"{path}: {_explain(error)}") from None
    manifest._path = path.absolute()
    return manifest


def is_ours(path: Path) -> bool:
    """Whether `path` lies where this product keeps its own files."""
    return path.resolve().is_relative_to(state_folder().resolve())


def _explain(error: ValidationError) -> str:
    """All that pydantic found, one clause a fault."""
    clauses = []
    for fault in error.errors():
        parts = (str(part) for part in fault["loc"] if part != "tuple[str, ...]")
        where = cut_off(".".join(parts))
        if fault["type"] == "extra_forbidden":
            known = ", ".join(name for name in Manifest.model_fields)
            clauses.append(
                f"unknown key '{where}'" + ("" if "." in where else f" (known: {known})")
            )
        else:
            message = fault["msg"].removeprefix("Value error, ")
            clauses.append(f"{where}: {message}" if where else message)
    return "; ".join(clauses)
