"""The images of a panel: those of a split whose predictions the adaptation changed most."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from typing import TypeVar

import numpy as np

from sfda.images.intensity_window import Picture

SAMPLED = 64  # images that are compared, evenly spread over the split
PANEL_ROWS = 4
Compared = TypeVar("Compared")


def sampled_rows(size: int, most: int = SAMPLED) -> list[int]:
    """At most so many rows of a split, evenly spread.

    >>> sampled_rows(3), len(sampled_rows(1000))
    ([0, 1, 2], 64)
    """
    rows: list[int]
    rows = np.unique(np.linspace(0, size - 1, min(size, most)).round().astype(int)).tolist()
    return rows


def most_changed(
    changes: Iterable[tuple[float, Compared]], most: int = PANEL_ROWS
) -> list[Compared]:
    """Those with the largest change, the largest first; of equals the earlier ones.

    Each is taken as it comes, and no more than these are held.

    >>> most_changed([(0.1, "a"), (0.5, "b"), (0.0, "c"), (0.5, "d"), (0.2, "e")])
    ['b', 'd', 'e', 'a']
    """
    best = heapq.nlargest(most, changes, key=lambda pair: pair[0])
    return [compared for _, compared in best]


def rgb(image: Picture) -> Picture:
    """A grey image [H, W] or a colour image, in colours [H, W, 3]."""
    return image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2)
