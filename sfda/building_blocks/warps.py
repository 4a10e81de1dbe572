"""Views that were turned, sheared, moved and scaled, and maps brought back from them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from sfda.building_blocks.precision import full_precision
from sfda.types import Warp

FrameMaps = Float[Tensor, "B C h w"]
Pairs = Sequence[tuple[int, int]]


def linear(angle: float, shear: tuple[float, float], scale: float) -> np.ndarray:
    """The 2 x 2 matrix that turns by `angle` degrees (clockwise, y points down), shears and scales.

    As torchvision's affine: scale R(angle) [[1, -tan shear_x], [0, 1]] for a shear of x alone.
    """
    turn, x, y = math.radians(angle), math.radians(shear[0]), math.radians(shear[1])
    a = math.cos(turn - y) / math.cos(y)
    b = -math.cos(turn - y) * math.tan(x) / math.cos(y) - math.sin(turn)
    c = math.sin(turn - y) / math.cos(y)
    d = -math.sin(turn - y) * math.tan(x) / math.cos(y) + math.cos(turn)
    return scale * np.array([[a, b], [c, d]])


@full_precision
def inverted(matrix: Float[Tensor, "B 2 3"]) -> Float[Tensor, "B 2 3"]:
    """The affine maps the other way round."""
    back = torch.linalg.inv(matrix[..., :2])
    return torch.cat([back, -back @ matrix[..., 2:]], -1)


@full_precision
def points_back(
    points: Float[Tensor, "B K 2"], warp: Warp | None, image: tuple[int, int]
) -> Float[Tensor, "B K 2"]:
    """Pixels (x, y) of the view in the image's own frame; `image` is (height, width)."""
    if warp is None:
        return points
    half = points.new_tensor([image[1] / 2, image[0] / 2])
    unit = (points + 0.5) / half - 1
    moved = unit @ warp.matrix[..., :2].mT + warp.matrix[..., 2][:, None]
    return (moved + 1) * half - 0.5


@full_precision
def maps_back(
    maps: FrameMaps, warp: Warp | None, *, image: tuple[int, int], pairs: Pairs = ()
) -> FrameMaps:
    """Heatmaps of a view in the frame of the image, bilinear, 0 where the view showed nothing.

    The pixel i of a map stands for the image's pixel i times the stride. Joints of mirrored views
    change places by `pairs`.
    """
    if warp is None:
        return maps
    height, width = maps.shape[-2:]
    rows = torch.arange(height, device=maps.device, dtype=maps.dtype) * (image[0] / height)
    columns = torch.arange(width, device=maps.device, dtype=maps.dtype) * (image[1] / width)
    across = columns.expand(height, width)
    down = rows[:, None].expand(height, width)
    points = torch.stack([across, down], -1).view(1, -1, 2).expand(len(maps), -1, 2)
    there = points_back(points, Warp(inverted(warp.matrix), warp.flipped), image)
    stride = maps.new_tensor([image[1] / width, image[0] / height])
    size = maps.new_tensor([width - 1, height - 1]).clamp(min=1)
    grid = (2 * there / stride / size - 1).view(len(maps), height, width, 2)
    moved_back = F.grid_sample(maps, grid, mode="bilinear", align_corners=True)
    return swapped(moved_back, warp, pairs)


@full_precision
def features_back(maps: FrameMaps, warp: Warp | None) -> FrameMaps:
    """Feature maps of a view in the frame of the image; a pixel stands for its cell's middle."""
    if warp is None:
        return maps
    theta = inverted(warp.matrix).to(maps)
    grid = F.affine_grid(theta, list(maps.shape), align_corners=False)
    return F.grid_sample(maps, grid, mode="bilinear", align_corners=False)


def swapped(maps: Tensor, warp: Warp, pairs: Pairs) -> Tensor:
    """What is said by joint [B, K, ...] of mirrored views, with left and right joints in each
    other's place.
    """
    if not pairs or not bool(warp.flipped.any()):
        return maps
    order = torch.arange(maps.shape[1], device=maps.device)
    for left, right in pairs:
        order[left], order[right] = right, left
    mirrored = warp.flipped.view(-1, *[1] * (maps.ndim - 1))
    return torch.where(mirrored, maps[:, order], maps)
