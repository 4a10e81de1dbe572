"""Heatmaps of joints: drawn from coordinates, and read back.

The pixel i of a map with stride s stands for the image's pixel i s, as in the keypoint code of
Transfer-Learning-Library, on which POST is built.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

GAUSSIAN_SIGMA = 2.0  # pixels of the map


def target_maps(
    joints: Float[Tensor, "B K 2"],
    visible: Float[Tensor, "B K"],
    *,
    image: tuple[int, int],
    size: tuple[int, int],
    sigma: float = GAUSSIAN_SIGMA,
) -> tuple[Float[Tensor, "B K h w"], Float[Tensor, "B K"]]:
    """Maps with a Gaussian of peak 1 at each joint, and the weight of each.

    `joints` are (x, y) in pixels of an image of (height, width) = `image`. The Gaussian's centre is
    the nearest pixel of the map, cut off at 3 sigma. A joint whose centre lies outside has weight 0
    and an empty map; one that is not visible by more than a half has an empty map and its
    visibility as weight.
    """
    stride = joints.new_tensor([image[1] / size[1], image[0] / size[0]])
    centre = (joints / stride + 0.5).trunc().long()
    limit = torch.tensor([size[1], size[0]], device=joints.device)
    inside = ((centre >= 0) & (centre < limit)).all(-1)
    weight = visible * inside
    maps = render(centre, size=size, sigma=sigma).to(visible.dtype)
    shown = inside & (visible > 0.5)
    return maps * shown[..., None, None], weight


def render(
    centre: Int[Tensor, "B K 2"], *, size: tuple[int, int], sigma: float = GAUSSIAN_SIGMA
) -> Float[Tensor, "B K h w"]:
    """Gaussians of peak 1 around pixels (x, y), cut off at 3 sigma."""
    rows = torch.arange(size[0], device=centre.device)
    columns = torch.arange(size[1], device=centre.device)
    across = (columns - centre[..., 0, None]).float()
    down = (rows - centre[..., 1, None]).float()
    far = 3 * sigma
    # exp(-(x^2 + y^2) / 2 sigma^2) as a product of two vectors
    one, other = (torch.exp(-(d**2) / (2 * sigma**2)) * (d.abs() <= far) for d in (across, down))
    return other[..., :, None] * one[..., None, :]


def peaks(
    maps: Float[Tensor, "B K h w"],
) -> tuple[Int[Tensor, "B K 2"], Float[Tensor, "B K"]]:
    """(x, y) of each map's largest value, the first in rows on ties, and that value.

    (0, 0) where nothing is above 0.
    """
    flat = maps.flatten(2)
    value, position = flat.max(-1)
    width = maps.shape[-1]
    points = torch.stack([position % width, position // width], -1)
    return points * (value > 0)[..., None], value


def joints_from_maps(
    maps: Float[Tensor, "B K h w"], *, image: tuple[int, int]
) -> tuple[Float[Tensor, "B K 2"], Float[Tensor, "B K"]]:
    """Joints (x, y) in pixels of an image of (height, width) = `image`, and their peaks.

    The peak's pixel, moved by a quarter towards its larger neighbour on each axis (SimpleBaseline,
    Xiao et al., ECCV 2018, arXiv:1804.06208).
    """
    position, value = peaks(maps)
    height, width = maps.shape[-2:]
    padded = F.pad(maps, (1, 1, 1, 1), mode="replicate").flatten(2)
    wide = width + 2
    middle = (position[..., 1] + 1) * wide + position[..., 0] + 1

    def at(shift: int) -> Tensor:
        return padded.gather(2, (middle + shift)[..., None])[..., 0]

    shift = torch.stack([at(1) - at(-1), at(wide) - at(-wide)], -1).sign() / 4
    limit = maps.new_tensor([width - 1, height - 1])
    refined = torch.minimum((position + shift).clamp(min=0), limit) * (value > 0)[..., None]
    stride = maps.new_tensor([image[1] / width, image[0] / height])
    return refined * stride, value


def soft_argmax(maps: Float[Tensor, "B K h w"], sharpness: float) -> Float[Tensor, "B K 2"]:
    """The mean (x, y) under softmax(sharpness x map), in pixels of the map; differentiable."""
    height, width = maps.shape[-2:]
    share = (sharpness * maps.flatten(2)).softmax(-1).view_as(maps)
    columns = torch.arange(width, device=maps.device, dtype=maps.dtype)
    rows = torch.arange(height, device=maps.device, dtype=maps.dtype)
    return torch.stack([(share.sum(2) * columns).sum(-1), (share.sum(3) * rows).sum(-1)], -1)


class PoseTargets(NamedTuple):
    """Joints (x, y) in pixels of the network's frame, and how visible each is, in [0, 1]."""

    joints: Float[Tensor, "B K 2"]
    visible: Float[Tensor, "B K"]
