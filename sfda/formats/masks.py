"""Masks of classes: values on disk, made indices of the manifest's classes."""

from __future__ import annotations

import functools
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sfda.errors import BadInput, Concerns, listed
from sfda.formats.images import orientation_of_bytes
from sfda.formats.readers import BROKEN, FileReader, Reader
from sfda.formats.volumes import difference_of_grids
from sfda.images.intensity_window import Raw
from sfda.types import UNKNOWN

Mask = np.ndarray[Any, np.dtype[np.uint8]]  # [H, W], indices of classes
Bits = np.ndarray[Any, np.dtype[np.bool_]]  # [H, W], the pixels of one thing
IGNORE = 255  # of a mask in memory: a pixel that does not count
VALUES = 2**16  # more values than this no mask may hold
VALUES_NAMED = 10  # so many values are named in one message
PixelCounts = np.ndarray[Any, np.dtype[np.int64]]  # [256], of each class, and at 255 of no one's


@dataclass(frozen=True)
class MaskReader:
    """The mask of every row of a split, each read when it is asked for."""

    stored: Reader = field(repr=False)
    images: Reader = field(repr=False)
    values: tuple[int, ...]  # pixel value of each class
    ignore: int | None  # pixel value that does not count

    def mask(self, row: int) -> Mask:
        """The mask of one row: indices of classes, and 255 where a pixel does not count.

        Raises BadInput naming the file if it is missing or corrupt, holds colours or values that
        are none of the manifest's, has another size than its image, or no pixel that counts.
        """
        stored, name = one_value(self.stored.values(row)), self.stored.name_of(row)
        if stored.ndim != 2:
            raise BadInput(
                f"mask {name} is a colour image; masks hold one class index a pixel, not colours: "
                "save it as a grey or palette PNG of indices"
            )
        height, width = self.images.size(row)
        if stored.shape != (height, width):
            raise BadInput(
                f"mask {name} has {stored.shape[0]} x {stored.shape[1]} pixels, but its image "
                f"{self.images.name_of(row)} has {height} x {width} (height x width); "
                + self._remedy(row, swapped=stored.shape == (width, height))
            )
        if lies := self._difference(row):
            raise BadInput(
                f"mask {name} does not lie where its image {self.images.name_of(row)} does: {lies}"
                "; mend its header, or make the manifest anew with --resample"
            )
        known, table = self._tables
        whole = _whole(stored)
        if whole is None or not known[whole].all():
            raise BadInput(f"mask {name} {self._odd(stored)}")
        classes: Mask = table[whole]
        if (classes == IGNORE).all():
            raise BadInput(
                f"mask {name} has no pixel that counts: all have the value of `ignore`, "
                f"{self.ignore}; leave its row out, or mend the mask"
            )
        return classes

    def _remedy(self, row: int, *, swapped: bool) -> str:
        images, turned = self.images, 1
        if swapped and isinstance(images, FileReader):
            with suppress(*BROKEN):
                turned = orientation_of_bytes(images.files.read(images.names[row]))
        if turned in (5, 6, 7, 8):
            return (
                f"the image is turned by EXIF (orientation {turned}) and its mask was drawn on the "
                "picture as it is stored: turn the mask too, or save the image upright"
            )
        return "a mask must have the size of its image"

    def _difference(self, row: int) -> str:
        mask, image = self.stored.grid(row), self.images.grid(row)
        if mask is None or image is None:
            return ""
        return difference_of_grids(image, mask)

    @functools.cached_property
    def _tables(self) -> tuple[np.ndarray[Any, np.dtype[np.bool_]], Mask]:
        """By value: whether it has a meaning, and the index it stands for."""
        known, table = np.zeros(VALUES, dtype=bool), np.full(VALUES, IGNORE, dtype=np.uint8)
        known[list(self.values)] = True
        table[list(self.values)] = np.arange(len(self.values), dtype=np.uint8)
        if self.ignore is not None:
            known[self.ignore] = True
        return known, table

    def _odd(self, stored: Raw) -> str:
        meant = {*self.values, self.ignore}
        odd = [f"{value:g}" for value in np.unique(stored).tolist() if value not in meant]
        more = f" and {len(odd) - VALUES_NAMED} more" if len(odd) > VALUES_NAMED else ""
        ignored = "there is no `ignore`" if self.ignore is None else f"`ignore` is {self.ignore}"
        few = "the value" if len(odd) == 1 else "values"
        return (
            f"holds {few} {', '.join(odd[:VALUES_NAMED])}{more} of no class "
            f"({_ranged(self.values)} are classes) and not ignored ({ignored}); "
            "mend the mask, or say which value each class has: `values` in the manifest, --values "
            "when it is made"
        )


def one_value(stored: Raw) -> Raw:
    """A mask's values; of colours that are all grey, as many programs save masks, their level."""
    if stored.ndim == 3 and stored.shape[2] in (3, 4):
        level = stored[..., 0]
        if (stored[..., 1] == level).all() and (stored[..., 2] == level).all():
            return level
    return stored


def count_pixels(mask: Mask) -> PixelCounts:
    """How many pixels a mask has of each class, and at 255 how many that do not count."""
    return np.bincount(mask.reshape(-1), minlength=256)


def values_concerns(
    pixels: PixelCounts, classes: tuple[str, ...], values: tuple[int, ...], ignore: int | None
) -> Concerns:
    """Classes that have no pixel in any mask while others do not count: perhaps they are theirs.

    >>> seen = count_pixels(np.array([[0, 255]], dtype=np.uint8))
    >>> len(values_concerns(seen, ("tissue", "organ"), (0, 1), 255).faults)
    1
    """
    absent = [name for name, count in zip(classes, pixels, strict=False) if not count]
    if ignore is None or not 0 < len(absent) < len(classes) or not pixels[IGNORE]:
        return Concerns([], [])
    share = pixels[IGNORE] / pixels.sum()
    absent_values = [value for name, value in zip(classes, values, strict=True) if name in absent]
    likely = [ignore if value == absent_values[-1] else value for value in values]
    remedy = f"--values {','.join(map(str, likely))} (in a manifest `values`, and `ignore: null`)"
    which, have = ("class", "has") if len(absent) == 1 else ("classes", "have")
    text = (
        f"{which} {listed(absent)} {have} no pixel in any mask, and {share:.1%} of the pixels have "
        f"the value {ignore}, which does not count (`ignore`); if that is a class, say so: "
        + remedy
    )
    # of two classes the other one alone would be left
    return Concerns([text], []) if len(classes) == 2 else Concerns([], [text])


def _whole(stored: Raw) -> Raw | None:
    """Values as indices into the tables; None if some can be none."""
    if stored.dtype in (np.uint8, np.uint16):
        return stored
    with np.errstate(invalid="ignore"):  # no numbers at all become some number, and differ
        whole = stored.astype(np.int64)
    fits = (whole == stored).all() and whole.min() >= 0 and whole.max() < VALUES
    return whole if fits else None


def _ranged(values: tuple[int, ...]) -> str:
    """The values in words: "0 to 10", or one by one."""
    if len(values) > 2 and values == tuple(range(values[0], values[0] + len(values))):
        return f"{values[0]} to {values[-1]}"
    more = f" and {len(values) - VALUES_NAMED} more" if len(values) > VALUES_NAMED else ""
    return ", ".join(str(value) for value in values[:VALUES_NAMED]) + more


def class_table(index_of: np.ndarray[Any, np.dtype[np.int64]]) -> Mask:
    """[256]: for every value of a mask in memory the class `index_of` [C] names, or 255.

    What is UNKNOWN there does not count.

    >>> class_table(np.array([2, UNKNOWN, 0]))[[0, 1, 2, 3, 255]].tolist()
    [2, 255, 0, 255, 255]
    """
    table = np.full(256, IGNORE, dtype=np.uint8)
    table[: len(index_of)] = np.where(index_of == UNKNOWN, IGNORE, index_of)
    return table
