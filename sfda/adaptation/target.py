"""The target of a job: a manifest as it is, or one made for a folder of images."""

from __future__ import annotations

import filecmp
import hashlib
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from sfda.annotation.carry_over import carry_annotations, newest_version
from sfda.authoring.from_folder import build_manifest
from sfda.manifests.digests import file_digest
from sfda.state_folder import disk_errors, home, one_at_a_time


def as_manifest(target: str, problem: Callable[[], str]) -> str:
    """A manifest's path; for a folder of images one without labels is made below home, with the
    annotations that people have made of it.

    It lies under the digest of what it says: a job that runs keeps the one that it began with,
    whatever comes into the folder meanwhile. `problem` opens the model and tells what it is for.
    Raises BadInput.
    """
    if not Path(target).is_dir():
        return target
    folder = Path(target).absolute()
    address = hashlib.sha256(str(folder).encode()).hexdigest()[:8]
    above, name, kind = home() / "manifests", f"{folder.name}-{address}", cast("Any", problem())
    with disk_errors(f"the manifest of {folder} in {above}"), _scratch(above, name) as scratch:
        part = scratch / "whole"
        part.mkdir()
        made = build_manifest(folder, problem=kind, out=part / f"{name}.yaml")
        if (version := newest_version(made)) > 1:
            build_manifest(folder, problem=kind, out=made, version=version)
        carry_annotations(made)
        whole = above / f"{name}-{file_digest(made)[:12]}"
        with one_at_a_time(whole):
            if not _is_there(part, whole):
                shutil.rmtree(whole, ignore_errors=True)
                part.rename(whole)
    return str(whole / made.name)


@contextmanager
def _scratch(above: Path, name: str) -> Iterator[Path]:
    """An empty folder for one making at a time; one that a kill has left is removed."""
    folder = above / f".making.{name}"
    with one_at_a_time(above / f"{name}.making"):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _is_there(part: Path, whole: Path) -> bool:
    """Whether all files of `part` lie in `whole` as they are."""
    files = [path.relative_to(part) for path in part.rglob("*") if path.is_file()]
    return all((whole / f).is_file() and filecmp.cmp(part / f, whole / f, False) for f in files)
