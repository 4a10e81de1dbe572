"""Losses of heatmaps: supervised, and POST's on two levels (Raychaudhuri et al., ICCV 2023)."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from sfda.building_blocks.heatmaps import PoseTargets, joints_from_maps, target_maps
from sfda.building_blocks.precision import full_precision
from sfda.errors import BadInput
from sfda.problems.pose.network import PoseOutput
from sfda.types import Images, Losses

Heatmaps = Float[Tensor, "B K h w"]


def loss(
    model: nn.Module, images: Images, targets_: PoseTargets, *, smoothing: float = 0.0
) -> Losses:
    """Mean squared error of the heatmaps, see `joints_mse`."""
    if smoothing:
        raise BadInput("heatmaps know no label smoothing: set smoothing to 0")
    out: PoseOutput = model(images)
    size = (out.heatmaps.shape[-2], out.heatmaps.shape[-1])
    image = (images.shape[-2], images.shape[-1])
    maps, weight = target_maps(targets_.joints, targets_.visible, image=image, size=size)
    return {"heatmap": joints_mse(out.heatmaps, maps, weight)}


@torch.no_grad()
def pseudo_labels(model: nn.Module, images: Images, threshold: float) -> PoseTargets:
    """Joints whose peak reaches `threshold`; the others are not visible.

    The network stays in the mode it is in: put it in eval mode first.
    """
    out: PoseOutput = model(images)
    joints, peak = joints_from_maps(out.heatmaps, image=(images.shape[-2], images.shape[-1]))
    return PoseTargets(joints, (peak >= threshold).to(joints))


def joints_mse(
    output: Heatmaps, target: Heatmaps, weight: Float[Tensor, "B K"]
) -> Float[Tensor, ""]:
    """Mean over everything of 0.5 w (output - target)^2; joints of weight 0 stay in the mean."""
    return (0.5 * weight[..., None, None] * (output - target) ** 2).mean()


def heatmap_consistency(
    output: Heatmaps, target: Heatmaps, mask: Bool[Tensor, "B K"]
) -> Float[Tensor, ""]:
    """Mean over everything of the squared difference where `mask` says so (POST's L_c)."""
    return (((output - target) * mask[..., None, None]) ** 2).mean()


def surer_part(peaks: Float[Tensor, "B K"], ratio: float) -> Bool[Tensor, "B K"]:
    """Which joints of the batch have a peak strictly above the floor(ratio B K)-th smallest."""
    values = peaks.flatten()
    rank = int(ratio * len(values))
    if rank < 1:
        return torch.ones_like(peaks, dtype=torch.bool)
    return peaks > values.sort().values[rank - 1]


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
    correlation = cross_correlation(one, other)
    diagonal = correlation.diagonal()
    others = correlation.square().sum() - diagonal.square().sum()
    return 1e-3 * ((diagonal - 1).square().sum() + apart * others)
