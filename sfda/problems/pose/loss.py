"""Losses of heatmaps: supervised, and POST's on two levels (Raychaudhuri et al., ICCV 2023)."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sfda.building_blocks.precision import full_precision

Maps = Float[Tensor, "B K h w"]


def joints_mse(output: Maps, target: Maps, weight: Float[Tensor, "B K"]) -> Float[Tensor, ""]:
    """Mean over everything of 0.5 w (output - target)^2; joints of weight 0 stay in the mean."""
    return (0.5 * weight[..., None, None] * (output - target) ** 2).mean()


def consistency(output: Maps, target: Maps, mask: Bool[Tensor, "B K"]) -> Float[Tensor, ""]:
    """Mean over everything of the squared difference where `mask` says so (POST's L_c)."""
    return (((output - target) * mask[..., None, None]) ** 2).mean()


def surer_part(peaks: Float[Tensor, "B K"], ratio: float) -> Bool[Tensor, "B K"]:
    """Which joints of the batch have a peak strictly above the floor(ratio B K)-th smallest."""
    values = peaks.flatten()
    place = int(ratio * len(values))
    if place < 1:
        return torch.ones_like(peaks, dtype=torch.bool)
    return peaks > values.sort().values[place - 1]


@full_precision
def cross_correlation(
    one: Float[Tensor, "B D"], other: Float[Tensor, "B D"]
) -> Float[Tensor, "D D"]:
    """Of channels standardised over the batch with the unbiased deviation, in float32."""

    def standard(x: Tensor) -> Tensor:
        x = x.float()
        return (x - x.mean(0)) / x.std(0).clamp_min(1e-6)

    return standard(one).T @ standard(other) / len(one)


def decorrelation(
    one: Float[Tensor, "B D"], other: Float[Tensor, "B D"], *, apart: float = 5e-3
) -> Float[Tensor, ""]:
    """1e-3 [sum_i (C_ii - 1)^2 + apart sum_ij C_ij^2] (POST's L_b, after Barlow Twins,
    arXiv:2103.03230); 0 for a batch of one, which has no deviation.
    """
    if len(one) < 2:
        return 0.0 * one.float().sum()
    found = cross_correlation(one, other)
    diagonal = found.diagonal()
    others = found.square().sum() - diagonal.square().sum()
    return 1e-3 * ((diagonal - 1).square().sum() + apart * others)
