"""The images and masks that a manifest's rows name, as readers; nothing is decoded yet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sfda.errors import BadInput
from sfda.formats.keypoints import file_of
from sfda.formats.masks import MaskReader
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


def make_reader(manifest: Manifest, keys: Sequence[str]) -> Reader:
    """The images of the rows `keys`. Raises BadInput if the folder or the zip is missing."""
    path = manifest.archive_path
    if manifest.arrays and path:
        return NpzReader(path, manifest.arrays.image, _indices(keys))
    names = tuple(map(file_of, keys)) if manifest.problem == "pose" else tuple(keys)
    return FileReader(files_of(manifest), names)


def files_of(manifest: Manifest) -> Files:
    """Where the manifest's files lie. Raises BadInput if the folder or the zip is missing."""
    path = manifest.archive_path
    if path:
        open_zip(path).close()
        return Zip(path)
    if not manifest.location.is_dir():
        raise BadInput(
            f"{manifest.path}: folder {manifest.location} is missing; "
            "set SFDA_DATA to the folder that holds your data sets"
        )
    return Folder(manifest.location)


def mask_reader(manifest: Manifest, content: SplitContent, images: Reader) -> MaskReader | None:
    """The masks of the rows that were found; None where there are none or none may be read."""
    if not content.masks or not manifest.labelled:
        return None
    stored: Reader
    if manifest.arrays and manifest.arrays.mask and manifest.archive_path:
        indices = _indices(content.masks)
        stored = NpzReader(manifest.archive_path, manifest.arrays.mask, indices)
    else:
        stored = FileReader(files_of(manifest), tuple(content.masks), "mask")
    return MaskReader(stored, images, manifest.mask_values, manifest.ignore)


def _indices(keys: Sequence[str]) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.array([int(key) for key in keys], dtype=np.int64)
