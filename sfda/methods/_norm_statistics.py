"""Statistics of a detector's norms over all pixels of a target, whichever kind they are."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops.misc import FrozenBatchNorm2d

from sfda.building_blocks.boxes import Boxes
from sfda.building_blocks.norm import Moments, Norm
from sfda.networks.detector import Detector, DetOutput
from sfda.types import Images, Scan

NormParts = Literal["backbone", "all"]
"""Whose statistics are renewed: those of the maps, or also those of the heads, whose inputs are
proposals and so mostly background."""


def detector_norms(network: nn.Module) -> list[nn.Module]:
    """All layers with statistics of a source: batch norm, and torchvision's frozen one, whose
    statistics are buffers that nothing moves.
    """
    return [
        layer
        for layer in network.modules()
        if isinstance(layer, FrozenBatchNorm2d)
        or (isinstance(layer, Norm) and layer.running_mean is not None)
    ]


def renew_statistics_(
    network: Detector, scan: Scan, *, parts: NormParts = "backbone", source_weight: float = 0.0
) -> int:
    """Put the target's statistics into the norms: running = w S + (1 - w) T; how many they are.

    T is the mean and biased variance over all pixels of all images, of inputs that the layers
    before have normalised by their batch (AdaBN, arXiv:1603.04779; for detectors as in
    arXiv:2407.07586, but neither noisy nor dependent on the order of images). One look, in eval
    mode, without gradient. Layers that meet one value a channel alone stay as they are.
    """
    layers = detector_norms(network)
    seen = {layer: _moments(layer) for layer in layers}
    handles = [layer.register_forward_hook(_Watch(seen[layer])) for layer in layers]
    try:
        for _ in scan(network if parts == "all" else _MapsAlone(network)):
            pass
    finally:
        for handle in handles:
            handle.remove()
    return sum(_fold_(layer, moments, source_weight) for layer, moments in seen.items())


class _MapsAlone(nn.Module):
    """A detector whose heads are not asked: no boxes."""

    problem = Detector.problem

    def __init__(self, network: Detector) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Images) -> DetOutput:
        self.network.features(images)
        none = torch.zeros(0, device=images.device)
        empty = Boxes(none.reshape(0, 4), none.long(), none)
        return DetOutput([empty] * len(images), none.reshape(0, 1))


class _Watch:
    """Takes in what a layer is given, and normalises it by its own statistics."""

    def __init__(self, moments: Moments) -> None:
        self.moments = moments

    def __call__(self, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        x = inputs[0].float()
        count = x.numel() // x.shape[1]
        if count < 2:
            return output
        unbiased, mean = torch.var_mean(x, [0, *range(2, x.ndim)], correction=1)
        self.moments.add(mean, unbiased, count)
        weight, bias = layer.weight, layer.bias
        assert weight is None or isinstance(weight, Tensor)
        assert bias is None or isinstance(bias, Tensor)
        eps = float(getattr(layer, "eps", 1e-5))
        return F.batch_norm(x, None, None, weight, bias, training=True, eps=eps).to(output.dtype)


def _moments(layer: nn.Module) -> Moments:
    mean = layer.running_mean
    assert isinstance(mean, Tensor)
    return Moments(len(mean), mean.device)


@torch.no_grad()
def _fold_(layer: nn.Module, moments: Moments, source_weight: float) -> bool:
    if not moments.count:
        return False
    mean, var = layer.running_mean, layer.running_var
    assert isinstance(mean, Tensor)
    assert isinstance(var, Tensor)
    biased = moments.sum / moments.count
    mean.lerp_(moments.mean.to(mean), 1 - source_weight)
    var.lerp_(biased.to(var), 1 - source_weight)
    return True
