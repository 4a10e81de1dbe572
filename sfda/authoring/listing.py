"""What images a folder, a zip or an npz holds."""

from __future__ import annotations

import logging
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sfda.bounds.files import plain_member, zip_opened
from sfda.errors import BadInput, listed
from sfda.formats.image_files import (
    SUFFIXES,
    PassedOver,
    images_below,
    images_in_list,
    is_image_name,
)
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

log = logging.getLogger("sfda")
IMAGE_ARRAYS = ("x", "images", "image", "data")
LABEL_ARRAYS = ("y", "labels", "label", "targets", "target")
MASK_ARRAYS = ("masks", "mask", "segmentations", "segmentation", *LABEL_ARRAYS)
GROUP_ARRAYS = ("groups", "group", "volumes", "volume")
SPLIT_ARRAYS = ("split", "splits")


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
    splits: tuple[str, ...] = ()  # what the npz's array of splits says of each
    passed_over: PassedOver = field(default_factory=PassedOver, compare=False)

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

    What is passed over is told of in the log. Raises BadInput if it is missing, no known kind, or
    holds none.
    """
    if not path.exists():
        raise BadInput(f"{path} does not exist; give a folder of images, a zip of them, or an npz")
    if path.suffix.lower() == ".npz" and path.is_file():
        return _npz(path, masks=volumes)
    suffixes, others = SUFFIXES + VOLUMES if volumes else SUFFIXES, PassedOver()
    if path.is_dir():
        keys = images_below(path, suffixes, others)
    elif path.suffix.lower() == ".txt":
        keys = images_in_list(path, suffixes)
    elif path.suffix.lower() == ".zip":
        with open_zip(path) as archive:
            keys = _zip(path, archive, suffixes, others)
    else:
        raise BadInput(f"{path} is neither a folder, nor a .zip, a .npz, nor a .txt list of files")
    if not keys:
        more = f"; {others.text()}" if others.counts else ""
        raise BadInput(f"{path} holds no images; looked for {', '.join(suffixes)}{more}")
    own = [key for key in sorted(keys) if key not in skip]
    if odd := [repr(key) for key in own if "\r" in key or not _is_text(key)]:
        raise BadInput(
            f"{path} holds files whose names are no UTF-8 text of one line: {listed(odd)}; rename "
            "them"
        )
    rows = tuple(each for key in own for each in _slices(path, key)) if volumes else tuple(own)
    if others.counts:
        log.warning("%s: %s", path, others.text())
    in_list = path.suffix.lower() == ".txt" and not path.is_dir()
    return Listing(path, rows, in_list=in_list, passed_over=others)


def passed_over(path: Path) -> PassedOver:
    """What a folder or a zip holds that is neither an image nor a volume. Raises BadInput."""
    others = PassedOver()
    if path.is_dir():
        images_below(path, SUFFIXES + VOLUMES, others)
    elif path.suffix.lower() == ".zip" and path.is_file():
        with open_zip(path) as archive:
            _zip(path, archive, SUFFIXES + VOLUMES, others)
    return others


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


def _zip(
    path: Path, archive: zipfile.ZipFile, suffixes: tuple[str, ...], others: PassedOver
) -> list[str]:
    infos = [info for info in archive.infolist() if not info.is_dir()]
    keys, odd = list[str](), list[str]()
    for info in infos:
        name = plain_member(info.filename)
        if _leads_out(name) and name.lower().endswith(suffixes):
            odd.append(name)
        elif is_image_name(name, suffixes) and not name.startswith("__MACOSX/"):
            keys.append(name)
        else:
            others.note(name)
    if any(info.flag_bits & 1 for info in infos):
        raise BadInput(f"{path} is encrypted; unpack it, or make a zip without a password")
    if odd:
        raise BadInput(f"{path} holds members outside of it: {', '.join(odd[:3])}")
    if len(set(keys)) < len(keys):
        raise BadInput(f"{path} holds several members of one name; pack it anew")
    return keys


def _leads_out(name: str) -> bool:
    """Whether a member's name is no path below a folder, here or on Windows."""
    parts = name.split("/")
    return name.startswith("/") or ".." in parts or (len(parts) > 1 and parts[0].endswith(":"))


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
    splits = _splits(path, names, count)
    if masks:
        mask_arrays = (n for n in MASK_ARRAYS if n in names and len(npz_header(path, n)[0]) == 3)
        group = next((name for name in GROUP_ARRAYS if name in names), None)
        mask = next(mask_arrays, None)
        return Listing(path, indices, image, mask=mask, group=group, splits=splits)
    label = next((name for name in LABEL_ARRAYS if name in names), None)
    labels = npz_array(path, label) if label else None
    if labels is not None and (
        labels.ndim not in (1, 2) or len(labels) != count or labels.dtype.kind not in "biu"
    ):
        raise BadInput(
            f"{path}: array '{label}' is {labels.dtype} {list(labels.shape)}, "
            f"not one whole number, or a row of them, for each of {count} images"
        )
    return Listing(path, indices, image, label, labels, splits=splits)


def _splits(path: Path, names: Sequence[str], count: int) -> tuple[str, ...]:
    """What the array of splits says of each image; () without one. Raises BadInput."""
    name = next((name for name in SPLIT_ARRAYS if name in names), None)
    if name is None:
        return ()
    array = npz_array(path, name)
    if array.shape != (count,) or array.dtype.kind not in "UiuS":
        raise BadInput(
            f"{path}: array '{name}' is {array.dtype} {list(array.shape)}, not one of train, val, "
            f"test for each of {count} images; save it so, or leave it out"
        )
    values = np.char.decode(array, "utf-8", "replace") if array.dtype.kind == "S" else array
    return tuple(map(str, values))
