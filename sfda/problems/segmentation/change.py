"""Where two segmenters differ: a pixel of another class."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Int

from sfda.formats.masks import Mask
from sfda.measures.change import Claim, ImageUnits, Unit, class_gain
from sfda.measures.opinions import ClassOpinions, PoolSize
from sfda.problems.segmentation.inference import MaskOfRow
from sfda.problems.segmentation.network import SegOutput
from sfda.refs import ModelSpec

CLAIM = Claim("class", "pixels", "pixel accuracy", "more of these pixels are classified rightly")
COUNTED_AT_ONCE = 2**20  # pixels: counting takes eight bytes of each

x_of = class_gain


def answers(output: MaskOfRow, spec: ModelSpec) -> Iterator[tuple[int, Mask]]:
    """(row, mask) of one image."""
    yield output[0], output[1]


def pixels_changed(one: Mask, other: Mask) -> float:
    """Share of the pixels whose class differs."""
    return float((one != other).mean())


def image_units(one: Mask, other: Mask, spec: ModelSpec, reach: float) -> ImageUnits:
    """The pixels whose class differs, row by row from the top left."""
    different = one != other
    total = class_counts(one)
    changed = class_counts(one, different)
    by_class = {
        spec.classes[label]: (int(total[label]), int(changed[label]))
        for label in np.flatnonzero(total)
    }

    def unit_of(chosen: Bool[np.ndarray, "H W"], number: int) -> Unit:
        y, x = nth_pixel(chosen, number)
        first, second = (spec.classes[int(mask[y, x])] for mask in (one, other))
        return Unit((float(x), float(y)), "", first, second)

    return ImageUnits(
        one.size,
        int(changed.sum()),
        by_class,
        lambda number: unit_of(different, number),
        lambda number: unit_of(~different, number),
    )


def nth_pixel(chosen: Bool[np.ndarray, "H W"], number: int) -> tuple[int, int]:
    """(row, column) of the n-th chosen pixel, from 0, without a list of all of them.

    >>> nth_pixel(np.array([[False, True], [True, True]]), 1)
    (1, 0)
    """
    ends = chosen.sum(1, dtype=np.int64).cumsum()
    y = int(np.searchsorted(ends, number, side="right"))
    before = int(ends[y - 1]) if y else 0
    return y, int(np.flatnonzero(chosen[y])[number - before])


def class_counts(
    mask: Mask, chosen: Bool[np.ndarray, "H W"] | None = None
) -> Int[np.ndarray, " 256"]:
    """Pixels by class, all or those that are chosen."""
    counts = np.zeros(256, np.int64)
    step = max(1, COUNTED_AT_ONCE // max(1, mask.shape[1]))
    for top in range(0, len(mask), step):
        rows = slice(top, top + step)
        part = mask[rows].ravel() if chosen is None else mask[rows][chosen[rows]]
        counts += np.bincount(part, minlength=256)
    return counts


PIXELS = 256  # of an image that are kept, at most ...
MOST_VALUES = 2**22  # ... and probabilities of the whole pool


def opinions(output: SegOutput, rows: Sequence[int], pool: PoolSize) -> ClassOpinions:
    """Class distributions of some pixels of each image, which depend on its row alone, so that all
    models are asked about the same ones.
    """
    _, classes, height, width = output.logits.shape
    count = max(1, min(PIXELS, MOST_VALUES // (pool.images * classes)))
    sampled = []
    for row, logits in zip(rows, output.logits, strict=True):
        places = np.random.Generator(np.random.Philox(key=row)).random((2, count))
        down, across = (
            torch.from_numpy((share * length).astype(np.int64)).to(logits.device)
            for share, length in zip(places, (height, width), strict=True)
        )
        sampled.append(logits[:, down, across].T)
    return ClassOpinions.of_rows(torch.stack(sampled))
