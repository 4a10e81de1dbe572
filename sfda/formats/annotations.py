"""What a tool's export says of one picture, before anybody has checked it."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from sfda.formats.masks import Mask


class Region(NamedTuple):
    """A painted part of a picture: its class, and where."""

    label: str
    bits: np.ndarray[Any, np.dtype[np.bool_]]  # [H, W]


class Drawn(NamedTuple):
    """A box that a person drew, x1, y1, x2, y2 in pixels of the picture."""

    label: str
    corners: tuple[float, float, float, float]


class Dot(NamedTuple):
    """A joint that a person placed, in pixels of the picture."""

    label: str
    x: float
    y: float


class Given(NamedTuple):
    """What an export says of one picture. Nothing in it: it was left out, skipped, or, if `done`,
    handed in with nothing in it.
    """

    where: str  # for messages
    row: str | None
    file: str | None
    labels: tuple[str, ...] = ()
    regions: tuple[Region, ...] = ()
    boxes: tuple[Drawn, ...] = ()
    people: tuple[tuple[Dot, ...], ...] = ()
    mask: Mask | None = None  # indices of the request's classes
    done: bool = False
    empties: int = 0  # further persons who handed it in with nothing in it
    size: tuple[int, int] | None = None  # height and width of the picture that was drawn in
    fault: str | None = None

    @property
    def bare(self) -> bool:
        """Whether nothing is in it."""
        return not (self.labels or self.regions or self.boxes or self.people) and self.mask is None


def alike(one: Given, other: Given) -> bool:
    """Whether two persons said the same."""
    if (one.labels, one.boxes, one.people) != (other.labels, other.boxes, other.people):
        return False
    return len(one.regions) == len(other.regions) and all(
        a.label == b.label and np.array_equal(a.bits, b.bits)
        for a, b in zip(one.regions, other.regions, strict=True)
    )
