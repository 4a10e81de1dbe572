"""Labels of a segmentation: masks, as people drew them, and prepared as the images of a model are,
kept under the digest of what they say.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sfda.errors import BadInput, Concerns, listed
from sfda.formats.masks import (
    IGNORE,
    Mask,
    MaskReader,
    PixelCounts,
    class_table,
    count_pixels,
    values_concerns,
)
from sfda.formats.readers import FileReader, Folder, Reader, npz_header
from sfda.images.decode import sweep, unfinished_file
from sfda.images.preprocess import refuse_cut
from sfda.images.store import Pictures, Ragged, RaggedWriter
from sfda.manifests.class_matching import class_map
from sfda.manifests.columns import bad_paths, slice_faults
from sfda.manifests.labels import SplitContent
from sfda.manifests.readers import label_reader
from sfda.manifests.schema import Manifest
from sfda.problems._labels import Array, LabelSet, Targets
from sfda.refs import InputSpec, ModelSpec
from sfda.state_folder import disk_errors
from sfda.types import UNSURE

if TYPE_CHECKING:
    from sfda.augment.photometric import Several, ViewMaker

SAME = np.arange(256, dtype=np.uint8)


class Masks(Protocol):
    """Something with masks in it, such as a MaskReader."""

    def mask(self, row: int) -> Mask:
        """One mask. Raises BadInput naming it."""
        ...


@dataclass(frozen=True, eq=False)
class MaskLabels(LabelSet):
    """The mask of each row, read when it is asked for: indices of classes by `table` [256]."""

    masks: Masks = field(repr=False)
    count: int
    table: Mask = field(default_factory=SAME.copy, repr=False)

    def __len__(self) -> int:
        return self.count

    def mask(self, row: int) -> Mask:
        """One mask; 255 does not count. Raises BadInput naming the file."""
        mask: Mask = self.table[self.masks.mask(row)]
        return mask

    def check(self, row: int) -> PixelCounts:
        """The pixels of each class. Raises BadInput for a mask that cannot be used."""
        return count_pixels(self.masks.mask(row))

    def concerns(self, seen: Sequence[PixelCounts], classes: tuple[str, ...]) -> Concerns:
        """Classes without one pixel, where the value that does not count may be theirs."""
        if not isinstance(self.masks, MaskReader) or not seen:
            return Concerns([], [])
        pixels: PixelCounts = np.sum(seen, axis=0)
        return values_concerns(pixels, classes, self.masks.values, self.masks.ignore)

    def take(self, positions: Array) -> MaskLabels:
        """Those of some rows."""
        return MaskLabels(_Some(self.masks, positions), len(positions), self.table)

    def in_classes(
        self,
        classes: tuple[str, ...] | int | None,
        model: tuple[str, ...],
        manifest: str,
        *,
        unknown: bool = False,
    ) -> MaskLabels:
        """Masks of the model's classes; pixels of classes that it lacks do not count."""
        return replace(self, table=class_table(class_map(classes, model, manifest)))

    def framed(
        self, reader: Reader, rows: Sequence[int], spec: ModelSpec, folder: Path
    ) -> MaskTargets:
        """Masks prepared as the images are, in a file below `folder`."""
        with disk_errors(f"masks below {folder}"):
            return MaskTargets(
                keep_masks(self.masks, self.count, spec.input, folder, table=self.table)
            )


@dataclass(frozen=True)
class _Some:
    """Some masks, as rows of their own."""

    whole: Masks
    rows: Array

    def mask(self, row: int) -> Mask:
        return self.whole.mask(int(self.rows[row]))


class MaskTargets(Targets["ViewMaker", Tensor]):
    """Masks of each image, of the size that it is stored in."""

    def __init__(self, masks: Pictures) -> None:
        self.masks = masks

    def __len__(self) -> int:
        return len(self.masks)

    def views(
        self, maker: ViewMaker, stored: Several, positions: Array, epoch: int, keys: Array
    ) -> tuple[Array, Tensor]:
        """Views, and the masks of what they show."""
        weak, moved = maker.weak_with_masks(stored, self.masks[positions], epoch, keys)
        return weak, torch.from_numpy(np.ascontiguousarray(moved))

    def to_device(self, moved: Tensor, device: torch.device) -> Tensor:
        """Classes; pixels that do not count are UNSURE."""
        masks = moved.to(device, non_blocking=True).long()
        return masks.masked_fill_(masks == IGNORE, UNSURE)

    def __getstate__(self) -> dict[str, Any]:
        held = self.masks
        if isinstance(held, np.memmap) and held.filename is not None:
            return {"masks": Path(held.filename)}  # else every worker would get a copy
        return {"masks": held}

    def __setstate__(self, state: dict[str, Any]) -> None:
        held = state["masks"]
        self.masks = np.load(held, mmap_mode="r") if isinstance(held, Path) else held


def read_masks(
    manifest: Manifest, content: SplitContent, rows: Sequence[Mapping[str, str]] | None
) -> list[str] | None:
    """Where the mask of every row lies: files, or indices as text in an npz; None for none."""
    if manifest.arrays:
        return _array_masks(manifest, content)
    if rows is None or not any(row["mask"] for row in rows):
        return None
    masks = [row["mask"] for row in rows]
    unmasked = [key for key, mask in zip(content.keys, masks, strict=True) if not mask]
    if unmasked:
        content.faults.append(
            f"no mask for {listed(unmasked)}, though other rows have one; put the rows with masks "
            "into a split of their own, such as test"
        )
        return None
    if odd := bad_paths(masks):
        content.faults.append(f"mask is not a path below the root: {listed(odd)}")
    content.faults += slice_faults(masks)
    return _needing_classes(manifest, content, masks)


def _array_masks(manifest: Manifest, content: SplitContent) -> list[str] | None:
    path, arrays = manifest.archive_path, manifest.arrays
    if path is None or arrays is None or arrays.mask is None:
        return None
    images, _ = npz_header(path, arrays.image)
    shape, dtype = npz_header(path, arrays.mask)
    if dtype != np.uint8 or shape != images[:3]:
        content.faults.append(
            f"mask array is {dtype} {list(shape)}, but masks of these images must be uint8 "
            f"{list(images[:3])}"
        )
        return None
    return _needing_classes(manifest, content, list(content.keys))


def _needing_classes(
    manifest: Manifest, content: SplitContent, masks: list[str]
) -> list[str] | None:
    if manifest.num_classes is None:
        content.faults.append("there are masks, but the manifest says nothing of `classes`")
        return None
    return masks


def masks_of(manifest: Manifest, content: SplitContent, images: Reader) -> MaskLabels | None:
    """The masks of a split; None where there are none."""
    if not content.label_files:
        return None
    stored = label_reader(manifest, content, "mask")
    reader = MaskReader(stored, images, manifest.mask_values, manifest.ignore)
    return MaskLabels(reader, len(content.label_files))


def from_column(
    values: list[str], classes: tuple[str, ...], folder: Path, images: Reader
) -> tuple[MaskLabels, tuple[Path, ...]]:
    """Masks of indices of the classes, below a folder."""
    stored = FileReader(Folder(folder), tuple(values), "mask")
    reader = MaskReader(stored, images, tuple(range(len(classes))), IGNORE)
    return MaskLabels(reader, len(values)), tuple(folder / value for value in values)


def keep_masks(masks: Masks, count: int, spec: InputSpec, folder: Path, *, table: Mask) -> Pictures:
    """All masks as uint8 [N, h, w] of `spec.stored` size, or, tiled, each [H, W, 1] of its own.

    `table` [256] maps a mask's values. Sizes change by the nearest pixel. The file is made anew at
    every call, since only reading the masks tells what they say, and is named by its content.
    Raises BadInput naming every mask that cannot be used, or for an input that cuts sides off.
    """
    refuse_cut(spec)
    folder.mkdir(parents=True, exist_ok=True)
    sweep(folder)
    number, name = unfinished_file(folder, "masks")
    digest, faults = hashlib.sha256(repr((spec.tiled, spec.stored)).encode()), []
    try:
        with os.fdopen(number, "wb") as handle:
            ragged = RaggedWriter(handle)
            if not spec.tiled:
                header = {"descr": "|u1", "fortran_order": False, "shape": (count, *spec.stored)}
                np.lib.format.write_array_header_1_0(handle, header)
            for row in range(count):
                try:
                    mask = resized(table[masks.mask(row)], spec)
                except BadInput as error:
                    faults.append(str(error))
                    continue
                digest.update(repr(mask.shape).encode() + mask.tobytes())
                ragged.write(mask[..., None])
            if spec.tiled:
                ragged.finish()
            handle.flush()
            os.fsync(handle.fileno())
        if faults:
            raise BadInput(f"{len(faults)} of {count} masks cannot be used: {listed(faults, '; ')}")
        suffix = "ragged" if spec.tiled else "npy"
        path = Path(name).rename(folder / f"masks-{digest.hexdigest()[:32]}.{suffix}")
    finally:
        Path(name).unlink(missing_ok=True)
    return Ragged(path) if spec.tiled else np.load(path, mmap_mode="r", allow_pickle=False)


def resized(mask: Mask, spec: InputSpec) -> Mask:
    """A mask of the size that its image has in the store."""
    if spec.tiled or mask.shape == spec.stored:
        return mask
    height, width = spec.stored
    return np.asarray(Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST))
