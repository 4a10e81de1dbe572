"""Masks prepared as the images of a model are, and kept under the digest of what they say."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from sfda.errors import BadInput, listed
from sfda.formats.masks import Mask
from sfda.images.decode import sweep
from sfda.images.preprocess import refuse_cut
from sfda.images.store import Pictures, Ragged, RaggedWriter
from sfda.refs import InputSpec


class Masks(Protocol):
    """Something with masks in it, such as a MaskReader."""

    def mask(self, row: int) -> Mask:
        """One mask. Raises BadInput naming it."""
        ...


def keep_masks(masks: Masks, count: int, spec: InputSpec, folder: Path, *, table: Mask) -> Pictures:
    """All masks as uint8 [N, h, w] of `spec.stored` size, or, tiled, each [H, W, 1] of its own.

    `table` [256] maps a mask's values. Sizes change by the nearest pixel. The file is made anew at
    every call, since only reading the masks tells what they say, and is named by its content.
    Raises BadInput naming every mask that cannot be used, or for an input that cuts sides off.
    """
    refuse_cut(spec)
    folder.mkdir(parents=True, exist_ok=True)
    sweep(folder, "masks")
    number, name = tempfile.mkstemp(dir=folder, prefix=".masks.", suffix=".tmp")
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
