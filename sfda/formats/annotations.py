"""What a tool's export says of one picture, before anybody has checked it."""

from __future__ import annotations

import math
import re
import zlib
from typing import Any, NamedTuple, SupportsInt

import cv2
import numpy as np

from sfda.bounds.limits import DRAWN_PIXELS, PICTURE_PIXELS
from sfda.documents import cut_off
from sfda.formats.coco_rle import refuse_far
from sfda.formats.masks import Bits, Mask

PART_ERRORS = (LookupError, ValueError, TypeError, ArithmeticError)  # of a part that is amiss

PYTHONS_OWN = (
    (r"could not convert string to float: (.+)", r"\1 is no number"),
    (r"invalid literal for int\(\) with base 10: (.+)", r"\1 is no whole number"),
    (r"cannot convert float \S+ to integer", "a number without an end"),
    (r".*values to unpack.*", "it has other parts than it should"),
    (
        r".*(reshape|broadcast|inhomogeneous|array element|shape).*",
        "its numbers do not fit together",
    ),
    (r".*(is shorter|is longer) than argument.*", "its parts do not fit together"),
)  # what Python says of a value, and what a person is told


def reason_of(error: Exception) -> str:
    """Why a part of a document cannot be read, in words of the document and not of Python's."""
    if isinstance(error, KeyError):
        return f"it lacks {error.args[0]!r}" if error.args else "it lacks a part"
    if not isinstance(error, ValueError):
        return "a part of it is of another kind than it should be"
    text = str(error)
    for pattern, words in PYTHONS_OWN:
        if re.fullmatch(pattern, text, re.DOTALL):
            return cut_off(re.sub(pattern, words, text, flags=re.DOTALL))
    return text or "it is not as it should be"


class PackedMask(NamedTuple):
    """A mask [H, W], packed: of many pictures in one export most of every mask is alike."""

    packed: bytes
    shape: tuple[int, ...]
    binary: bool

    @property
    def values(self) -> np.ndarray[Any, Any]:
        """Its pixels, as bool or uint8."""
        flat = np.frombuffer(zlib.decompress(self.packed), np.uint8)
        if self.binary:
            flat = np.unpackbits(flat, count=math.prod(self.shape)).view(np.bool_)
        return flat.reshape(self.shape)


def pack(mask: Bits | Mask) -> PackedMask:
    """A mask packed; equal ones are packed alike."""
    binary = mask.dtype == np.bool_
    content = np.packbits(mask) if binary else np.ascontiguousarray(mask)
    return PackedMask(zlib.compress(content.data, 1), mask.shape, binary)


class PaintedRegion(NamedTuple):
    """A painted part of a picture: its class, and where."""

    label: str
    where: PackedMask

    @property
    def bits(self) -> Bits:
        """[H, W] of the picture."""
        return self.where.values


class Canvas:
    """How much may still be drawn for one export."""

    def __init__(self) -> None:
        self._left = DRAWN_PIXELS.most

    def take(self, size: tuple[int, int]) -> None:
        """Count a mask of this size. Raises ValueError where that is too much."""
        self._left -= size[0] * size[1]
        if self._left < 0:
            raise ValueError(f"the masks of this export have {DRAWN_PIXELS.beyond}")


class DrawnBox(NamedTuple):
    """A box that a person drew, x1, y1, x2, y2 in pixels of the picture."""

    label: str
    corners: tuple[float, float, float, float]


class PlacedJoint(NamedTuple):
    """A joint that a person placed, in pixels of the picture."""

    label: str
    x: float
    y: float


class PictureAnnotations(NamedTuple):
    """What an export says of one picture. Nothing in it: it was left out, skipped, or, if `done`,
    handed in with nothing in it.
    """

    where: str  # for messages
    row: str | None
    file: str | None
    labels: tuple[str, ...] = ()
    regions: tuple[PaintedRegion, ...] = ()
    boxes: tuple[DrawnBox, ...] = ()
    persons: tuple[tuple[PlacedJoint, ...], ...] = ()
    mask: PackedMask | None = None  # indices of the request's classes
    done: bool = False
    empties: int = 0  # further persons who handed it in with nothing in it
    size: tuple[int, int] | None = None  # height and width of the picture that was drawn in
    fault: str | None = None

    @property
    def empty(self) -> bool:
        """Whether nothing is in it."""
        return not (self.labels or self.regions or self.boxes or self.persons) and self.mask is None


def alike(one: PictureAnnotations, other: PictureAnnotations) -> bool:
    """Whether two persons said the same."""
    if (one.labels, one.boxes, one.persons) != (other.labels, other.boxes, other.persons):
        return False
    return one.regions == other.regions


def drawn_size(height: str | SupportsInt, width: str | SupportsInt) -> tuple[int, int]:
    """Height and width that an export states of a picture.

    Raises ValueError, or what `int` raises, where they are none, or more than any picture has.
    """
    size = int(height), int(width)
    met = f"{size[1]} x {size[0]}"
    if min(size) < 1:
        raise ValueError(f"a picture of {met} pixels")
    if size[0] * size[1] > PICTURE_PIXELS.most:
        raise ValueError(f"a picture of {PICTURE_PIXELS.refusal(met)}")
    return size


def outlined(corners: np.ndarray[Any, Any], size: tuple[int, int]) -> Bits:
    """The inside of one polygon [N, 2] of x, y in a picture of `size` (height, width).

    Raises ValueError for fewer than three corners, and ones that are no numbers, or far out of the
    picture.
    """
    if len(corners) < 3:
        raise ValueError(f"a polygon of {len(corners)} corners")
    refuse_far(corners, size)
    out = np.zeros(size, np.uint8)
    cv2.fillPoly(out, [np.floor(corners).astype(np.int32)], 1)
    return out.astype(bool)
