"""COCO's two ways to say which pixels of a picture belong to an object, each checked first.

pycocotools trusts what it reads: run lengths that end too early become whatever lay in memory, and
corners that are no numbers end the process.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sfda.formats.masks import Bits

RUN_CHARACTERS = 8  # of the text of a run length, and more than one of any picture takes
FARTHEST = 16  # by so many times its size a corner may lie outside of a picture

OUTLINE = 4  # by so many times the pixels of its picture an outline may be long


def decode_run_lengths(counts: str | bytes | Sequence[Any], size: tuple[int, int]) -> Bits:
    """Runs of 0 and 1 in turn, column by column: numbers, or packed as text.

    Raises ValueError or TypeError if they are not of `size` (height, width).
    """
    if len(counts) > RUN_CHARACTERS * (size[0] * size[1] + 2):
        raise ValueError(f"{len(counts)} run lengths, more than the picture has pixels")
    runs = unpack_run_lengths(counts) if isinstance(counts, str | bytes) else list(counts)
    if any(isinstance(run, bool) or not isinstance(run, int) or run < 0 for run in runs):
        raise ValueError("run lengths that are no whole numbers")
    if sum(runs) != size[0] * size[1]:
        raise ValueError(f"run lengths of {sum(runs)} pixels, not {size[0] * size[1]}")
    bits = np.repeat(np.arange(len(runs)) % 2 == 1, np.array(runs, np.int64))
    return bits.reshape(size, order="F")


def unpack_run_lengths(text: str | bytes) -> list[int]:
    """Run lengths out of COCO's text: characters from "0" on carry five bits and a sixth that says
    whether more follow, the lowest first, the highest bit the sign; from the fourth number on each
    is the difference from the one two places before.

    >>> unpack_run_lengths("52203")
    [5, 2, 2, 2, 5]
    """
    runs: list[int] = []
    number, shift = 0, 0
    for code in text.encode("ascii") if isinstance(text, str) else text:
        bits = code - 48
        if not 0 <= bits < 64:
            raise ValueError("run lengths that cannot be read")
        number |= (bits & 31) << shift
        shift += 5
        if bits & 32 and shift < 5 * RUN_CHARACTERS:
            continue
        if bits & 32:  # sums of ever longer numbers would take ever longer
            raise ValueError("a run length of more characters than any picture needs")
        if bits & 16:
            number -= 1 << shift
        runs.append(number + runs[-2] if len(runs) > 2 else number)
        number, shift = 0, 0
    if shift:
        raise ValueError("run lengths that end too early")
    return runs


def refuse_far(corners: np.ndarray[Any, Any], size: tuple[int, int]) -> None:
    """ValueError for corners of a polygon that are no numbers, or far out of the picture."""
    if not (np.abs(corners) <= FARTHEST * max(size)).all():
        raise ValueError("a polygon with corners that are no numbers, or far away")


def fill_polygons(polygons: object, size: tuple[int, int]) -> Bits:
    """The inside of polygons [x1, y1, x2, y2, ...] together.

    Raises ValueError or TypeError for corners that are too few, no numbers, or far away.
    """
    from pycocotools import mask as codec

    if not isinstance(polygons, list) or not all(isinstance(p, list) for p in polygons):
        raise ValueError("polygons are lists of numbers")
    for polygon in polygons:
        corners = np.array(polygon, np.float64)
        if corners.ndim != 1 or len(corners) < 6 or len(corners) % 2:
            raise ValueError(f"a polygon of {corners.size} numbers")
        refuse_far(corners, size)
        steps = np.abs(np.diff(corners.reshape(-1, 2), axis=0)).max(1).sum()
        if steps > OUTLINE * (size[0] * size[1] + 64 * max(size)):  # each pixel of it takes memory
            raise ValueError("an outline much longer than its picture has pixels")
    code = codec.merge(codec.frPyObjects(polygons, *size))
    return np.array(codec.decode(code)).astype(bool)
