"""The images and masks that a manifest's rows name, as readers; nothing is decoded yet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from sfda.errors import BadInput
from sfda.formats.readers import (
    FileReader,
    Files,
    Folder,
    NpzReader,
    Reader,
    Zip,
    open_zip,
)
from sfda.manifests.labels import SplitContent
from sfda.manifests.schema import Manifest
from sfda.problems.registry import PROBLEMS


def make_reader(manifest: Manifest, keys: Sequence[str]) -> Reader:
    """The images of the rows `keys`. Raises BadInput if the folder or the zip is missing."""
    path = manifest.archive_path
    if manifest.arrays and path:
        return NpzReader(path, manifest.arrays.image, _indices(keys))
    image_file = PROBLEMS[manifest.problem].image_file
    return FileReader(files_of(manifest), tuple(map(image_file, keys)))


def files_of(manifest: Manifest) -> Files:
    """Where the manifest's files lie. Raises BadInput if the folder or the zip is missing."""
    path = manifest.archive_path
    if path:
        open_zip(path).close()
        return Zip(path)
    if not manifest.location.is_dir():
        raise BadInput(f"{manifest.path}: {missing_images(manifest)}")
    return Folder(manifest.location)


def label_reader(manifest: Manifest, content: SplitContent, what: str) -> Reader:
    """The files, or entries of the archive's array of masks, that the labels of rows lie in."""
    names = content.label_files or []
    if manifest.arrays and manifest.arrays.mask and manifest.archive_path:
        return NpzReader(manifest.archive_path, manifest.arrays.mask, _indices(names))
    return FileReader(files_of(manifest), tuple(names), what)


def _indices(keys: Sequence[str]) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.array([int(key) for key in keys], dtype=np.int64)


def missing_images(manifest: Manifest) -> str:
    """What to say where a manifest's folder or archive is not there, by what its root says."""
    path = manifest.archive_path
    what = f"archive {path}" if path else f"folder {manifest.location}"
    root, data = PurePosixPath(manifest.root), manifest.data_root
    if root.is_absolute():
        return f"{what} is missing; make the manifest anew with `sfda manifest`"
    if not manifest.root.startswith("."):
        named = f"'{manifest.root}'" if manifest.root else "the images"
        return f"{what} is missing; set SFDA_DATA to the folder that holds {named}, it is {data}"
    names = [part for part in root.parts if part not in ("..", ".")]
    file = manifest.archive.file if manifest.archive else ""
    there = next(
        (
            "/".join(names[at:])
            for at in range(len(names))
            if (data.joinpath(*names[at:], file) if file else data.joinpath(*names[at:])).exists()
        ),
        "NAME",
    )
    return (
        f"{what} is missing: the manifest names its images relative to itself (root "
        f"{manifest.root}), so put it back where it was made, or write `root: {there}` into it "
        f"and set SFDA_DATA to the folder that holds {there}"
        + (f", as it does now ({data})" if there != "NAME" else "")
    )
