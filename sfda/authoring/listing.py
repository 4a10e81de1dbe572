"""What images a folder, a zip or an npz holds."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from sfda.bounds.files import zip_opened
from sfda.errors import BadInput, listed
from sfda.formats.image_files import SUFFIXES, images_below, images_in_list, is_image_name
from sfda.formats.readers import (
    BROKEN,
    FileReader,
    Folder,
    Zip,
    npz_array,
    npz_count,
    npz_header,
    open_zip,
)
from sfda.formats.volumes import VOLUMES, FileAddress, grid, is_volume

IMAGE_ARRAYS = ("x", "images", "image", "data")
LABEL_ARRAYS = ("y", "labels", "label", "targets", "target")
MASK_ARRAYS = ("masks", "mask", "segmentations", "segmentation", *LABEL_ARRAYS)
GROUP_ARRAYS = ("groups", "group", "volumes", "volume")


@dataclass(frozen=True)
class Listing:
    """Images in sorted order, slices of a volume in theirs.

    Of an npz also the names of its arrays, and its labels.
    """

    path: Path
    keys: tuple[str, ...]  # paths below the folder or in the zip, or indices as text
    image: str | None = None
    label: str | None = None
    labels: np.ndarray[Any, Any] | None = None
    mask: str | None = None
    group: str | None = None
    in_list: bool = False  # `path` is a text file that names the images

    @property
    def root(self) -> Path:
        """The folder that the manifest's root will name."""
        return self.path if self.path.is_dir() else self.path.parent

    @property
    def column(self) -> str:
        """The row file's column that names an image."""
        return "index" if self.image else "file"

    def reader(self, keys: Sequence[str]) -> FileReader:
        """These files, which lie in the folder, the list's folder or the zip."""
        if self.path.suffix.lower() == ".zip" and not self.path.is_dir():
            return FileReader(Zip(self.path), tuple(keys))
        return FileReader(Folder(self.path.parent if self.in_list else self.path), tuple(keys))

    def name(self, key: str) -> str:
        """The name a row's id is the digest of."""
        return f"{self.image}:{key}" if self.image else key


def list_images(
    path: Path, *, volumes: bool = False, skip: frozenset[str] = frozenset()
) -> Listing:
    """All images in `path`, with `volumes` also the slices of NIfTI files, without files in `skip`.

    Raises BadInput if it is missing, no known kind, or holds none.
    """
    if not path.exists():
        raise BadInput(f"{path} does not exist; give a folder of images, a zip of them, or an npz")
    if path.suffix.lower() == ".npz" and path.is_file():
        return _npz(path, masks=volumes)
    suffixes = SUFFIXES + VOLUMES if volumes else SUFFIXES
    if path.is_dir():
        keys = images_below(path, suffixes)
    elif path.suffix.lower() == ".txt":
        keys = images_in_list(path, suffixes)
    elif path.suffix.lower() == ".zip":
        with open_zip(path) as archive:
            keys = _zip(path, archive, suffixes)
    else:
        raise BadInput(f"{path} is neither a folder, nor a .zip, a .npz, nor a .txt list of files")
    if not keys:
        raise BadInput(f"{path} holds no images; looked for {', '.join(suffixes)}")
    own = [key for key in sorted(keys) if key not in skip]
    if odd := [repr(key) for key in own if "\r" in key or not _is_text(key)]:
        raise BadInput(
            f"{path} holds files whose names are no UTF-8 text of one line: {listed(odd)}; rename "
            "them"
        )
    rows = tuple(each for key in own for each in _slices(path, key)) if volumes else tuple(own)
    return Listing(path, rows, in_list=path.suffix.lower() == ".txt")


def _slices(path: Path, key: str) -> list[str]:
    """A picture's name, or those of all slices of a volume. Raises BadInput for a broken one."""
    if not is_volume(key):
        return [key]
    listed = path.suffix.lower() == ".txt"
    address = FileAddress((path.parent if listed else path) / key)
    if not listed and not path.is_dir():
        address = FileAddress(path, key)
    try:
        return [f"{key}#{i}" for i in range(grid(address).shape[0])]
    except BROKEN as error:
        raise BadInput(
            f"volume {address} cannot be read: {error}; mend it or move it away"
        ) from None


def _is_text(name: str) -> bool:
    """Whether a table can hold it: names of other encodings come with halves of characters."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _zip(path: Path, archive: zipfile.ZipFile, suffixes: tuple[str, ...]) -> list[str]:
    infos = [info for info in archive.infolist() if not info.is_dir()]
    keys = [
        info.filename
        for info in infos
        if is_image_name(info.filename, suffixes) and not info.filename.startswith("__MACOSX/")
    ]
    if any(info.flag_bits & 1 for info in infos):
        raise BadInput(f"{path} is encrypted; unpack it, or make a zip without a password")
    odd = [key for key in keys if key.startswith("/") or ".." in PurePosixPath(key).parts]
    if odd:
        raise BadInput(f"{path} holds members outside of it: {', '.join(odd[:3])}")
    if len(set(keys)) < len(keys):
        raise BadInput(f"{path} holds several members of one name; pack it anew")
    return keys


def _npz(path: Path, *, masks: bool) -> Listing:
    """Images, and labels; or, with `masks`, masks and groups by the names of their arrays."""
    try:
        zip_opened(path).close()  # its list of files is not too long
        with np.load(path, allow_pickle=False) as archive:
            names = list(archive.files)
    except (*BROKEN, AttributeError, TypeError) as error:
        raise BadInput(f"{path} cannot be read as npz: {error}") from None
    image = next((name for name in IMAGE_ARRAYS if name in names), None)
    if image is None:
        raise BadInput(
            f"{path} has no array of images: one of its arrays ({', '.join(names)}) must be "
            f"named {' or '.join(IMAGE_ARRAYS)}"
        )
    count = npz_count(path, image)
    if not count:
        raise BadInput(f"{path} holds no images: array '{image}' is empty")
    indices = tuple(str(i) for i in range(count))
    if masks:
        mask_arrays = (n for n in MASK_ARRAYS if n in names and len(npz_header(path, n)[0]) == 3)
        group = next((name for name in GROUP_ARRAYS if name in names), None)
        return Listing(path, indices, image, mask=next(mask_arrays, None), group=group)
    label = next((name for name in LABEL_ARRAYS if name in names), None)
    labels = npz_array(path, label) if label else None
    if labels is not None and (
        labels.ndim not in (1, 2) or len(labels) != count or labels.dtype.kind not in "biu"
    ):
        raise BadInput(
            f"{path}: array '{label}' is {labels.dtype} {list(labels.shape)}, "
            f"not one whole number, or a row of them, for each of {count} images"
        )
    return Listing(path, indices, image, label, labels)
