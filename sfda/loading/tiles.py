"""Tiles of images that are larger than a network's input, and how their predictions are blended."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

TileSlices = tuple[slice, slice]  # rows, columns


def positions(length: int, size: int, overlap: int) -> list[int]:
    """Where tiles of `size` begin along a side: each overlaps the next by at least `overlap`.

    The last is moved inwards so that it ends with the side, which must not be shorter than a tile.

    >>> positions(10, 4, 1), positions(4, 4, 1), positions(9, 4, 0)
    ([0, 3, 6], [0], [0, 4, 5])
    """
    if length < size or not 0 <= overlap < size:
        raise ValueError(f"no tiles of {size} overlapping by {overlap} on a side of {length}")
    step = size - overlap
    return [*range(0, length - size, step), length - size]


def tiles(
    height: int, width: int, size: tuple[int, int], *, overlap: tuple[int, int]
) -> list[TileSlices]:
    """All tiles of an image, row by row."""
    return [
        (slice(top, top + size[0]), slice(left, left + size[1]))
        for top in positions(height, size[0], overlap[0])
        for left in positions(width, size[1], overlap[1])
    ]


def blending(size: tuple[int, int], overlap: tuple[int, int]) -> Float[Tensor, "h w"]:
    """How much each pixel of a tile counts: rising from its borders over the overlap, then 1.

    >>> blending((1, 6), (0, 2))
    tensor([[0.3333, 0.6667, 1.0000, 1.0000, 0.6667, 0.3333]])
    """
    sides = []
    for length, ramp in zip(size, overlap, strict=True):
        distance = torch.arange(1, length + 1, dtype=torch.float32)
        sides.append(torch.minimum(distance, distance.flip(0)).clamp(max=ramp + 1) / (ramp + 1))
    return torch.outer(*sides)
