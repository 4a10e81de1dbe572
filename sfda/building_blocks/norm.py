"""Batch-norm layers: which ones a network has, and whose statistics they use."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from sfda.types import Scan

Norm = nn.modules.batchnorm._BatchNorm


def norms(network: nn.Module) -> list[Norm]:
    """All batch-norm layers that keep statistics."""
    return [
        layer
        for layer in network.modules()
        if isinstance(layer, Norm) and layer.running_mean is not None
    ]


@contextmanager
def batch_statistics(network: nn.Module, enabled: bool = True) -> Iterator[None]:
    """Inside, batch norm normalises with the batch and moves its running statistics.

    All else stays in the mode it is in, dropout among it. Nothing changes unless `wanted`.
    """
    layers = [layer for layer in norms(network) if enabled and not layer.training]
    for layer in layers:
        layer.train()
    try:
        yield
    finally:
        for layer in layers:
            layer.eval()


@contextmanager
def keep_statistics(network: nn.Module) -> Iterator[None]:
    """Inside, batch norm in train mode normalises with the batch and leaves its running statistics
    alone.
    """
    layers = [(layer, layer.momentum) for layer in norms(network) if layer.training]
    for layer, _ in layers:
        layer.momentum = 0.0
    try:
        yield
    finally:
        for layer, momentum in layers:
            layer.momentum = momentum


def train_norms_(network: nn.Module, mode: bool) -> None:
    """Put batch norm alone in train mode, or in eval mode; all else is in eval mode.

    For methods whose statistics or entropies dropout would disturb.
    """
    network.eval()
    for layer in norms(network):
        layer.train(mode)


class AlphaBN(Norm):
    """Batch norm that mixes source statistics with those of the batch: w S + (1 - w) T.

    "Test-time Batch Statistics Calibration" (arXiv:2110.04065), whose w is 0.9. Gradient flows
    through the batch's statistics. It mixes in train mode, or always if `online`; elsewhere it
    uses its running statistics, and so it does where there is one value a channel. The running
    variance is of unbiased ones, whatever `batch_var` normalises with, as in torch. Parameters and
    buffers are those of the layer it stands for, by the same names.
    """

    source_mean: Float[Tensor, " C"]
    source_var: Float[Tensor, " C"]

    def __init__(
        self,
        layer: Norm,
        *,
        source_weight: float,
        batch_var: Literal["unbiased", "biased"] = "unbiased",
        online: bool = False,
    ) -> None:
        super().__init__(layer.num_features, layer.eps, affine=layer.affine)
        self.weight, self.bias = layer.weight, layer.bias
        assert layer.running_mean is not None
        assert layer.running_var is not None
        assert self.running_mean is not None
        assert self.running_var is not None
        self.running_mean.copy_(layer.running_mean)
        self.running_var.copy_(layer.running_var)
        self.register_buffer("source_mean", layer.running_mean.clone(), persistent=False)
        self.register_buffer("source_var", layer.running_var.clone(), persistent=False)
        self.source_weight, self.batch_var, self.online = source_weight, batch_var, online
        self.kind, self.plain_momentum = type(layer), layer.momentum
        self.momentum = 0.1  # of the running statistics; None leaves them
        self.seen: Moments | None = None
        self.last: tuple[Tensor, Tensor] | None = None  # mean and unbiased variance of the batch
        self.train(layer.training)

    def _check_input_dim(self, input: Tensor) -> None:
        """Any number of dimensions."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalised input of the same shape."""
        lone = x.numel() == x.shape[1]
        if lone or not (self.online or self.training):
            return F.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        axes = [0, *range(2, x.ndim)]
        count = x.numel() // x.shape[1]
        unbiased, mean = torch.var_mean(x.float(), axes, correction=1)
        var = unbiased if self.batch_var == "unbiased" else unbiased * (count - 1) / count
        self.last = (mean.detach(), unbiased.detach())
        if self.seen:
            self.seen.add(mean.detach(), unbiased.detach(), count)
        w = self.source_weight
        mixed_mean = w * self.source_mean + (1 - w) * mean
        mixed_var = w * self.source_var + (1 - w) * var
        if self.training and self.momentum is not None:
            with torch.no_grad():
                assert self.running_mean is not None
                assert self.running_var is not None
                kept_var = w * self.source_var + (1 - w) * unbiased
                self.running_mean.lerp_(mixed_mean, self.momentum)
                self.running_var.lerp_(kept_var, self.momentum)
        shape = (1, -1, *[1] * (x.ndim - 2))
        scale = torch.rsqrt(mixed_var + self.eps)
        if self.weight is not None:
            scale = scale * self.weight
        shift = -mixed_mean * scale
        if self.bias is not None:
            shift = shift + self.bias
        return (x * scale.view(shape) + shift.view(shape)).to(x.dtype)


def channel_gap(layer: AlphaBN) -> Float[Tensor, " C"]:
    """|mu_S / sqrt(var_S + e) - mu_T / sqrt(var_T + e)| of its last batch (OSUDA).

    Both variances are unbiased. Zeros before the first batch of more than single values.
    """
    if layer.last is None:
        return torch.zeros_like(layer.source_mean)
    mean, var = layer.last
    ours = layer.source_mean / (layer.source_var + layer.eps).sqrt()
    return (ours - mean / (var + layer.eps).sqrt()).abs()


def measures(network: nn.Module) -> bool:
    """Whether a look at data through this network changes what it knows of them."""
    return any(isinstance(layer, AlphaBN) for layer in network.modules())


class Moments:
    """Mean and unbiased variance by channel of all batches, merged (Chan et al., 1979)."""

    def __init__(self, channels: int, device: torch.device) -> None:
        self.count = 0
        self.mean = torch.zeros(channels, dtype=torch.double, device=device)
        self.sum = torch.zeros(channels, dtype=torch.double, device=device)  # squared differences

    def add(self, mean: Tensor, unbiased: Tensor, count: int) -> None:
        """Take in a batch by its own statistics."""
        delta, total = mean.double() - self.mean, self.count + count
        self.sum += unbiased.double() * (count - 1) + delta**2 * (self.count * count / total)
        self.mean += delta * (count / total)
        self.count = total

    @property
    def variance(self) -> Tensor:
        """Unbiased variance by channel."""
        return self.sum / max(1, self.count - 1)


def mix_norms_(
    network: nn.Module,
    *,
    source_weight: float,
    batch_var: Literal["unbiased", "biased"] = "unbiased",
    online: bool = False,
) -> list[AlphaBN]:
    """Put an `AlphaBN` in the place of every batch norm; the new layers."""
    mixed_layers = []
    for name, layer in list(network.named_modules()):
        if isinstance(layer, Norm) and layer.running_mean is not None:
            mixed = AlphaBN(layer, source_weight=source_weight, batch_var=batch_var, online=online)
            network.set_submodule(name, mixed)
            mixed_layers.append(mixed)
    return mixed_layers


def plain_norms_(network: nn.Module) -> None:
    """Put ordinary batch norms in the place of all `AlphaBN`, with their running statistics."""
    for name, layer in list(network.named_modules()):
        if isinstance(layer, AlphaBN):
            plain = layer.kind(
                layer.num_features, layer.eps, layer.plain_momentum, affine=layer.affine
            )
            plain.to(layer.source_mean.device)
            plain.weight, plain.bias = layer.weight, layer.bias
            plain.running_mean, plain.running_var = layer.running_mean, layer.running_var
            plain.num_batches_tracked = layer.num_batches_tracked
            network.set_submodule(name, plain.train(layer.training))
    spare_lone_values(network)


def alpha_statistics(network: nn.Module, scan: Scan, *, source_weight: float) -> None:
    """Fold the target's statistics into every batch norm, in place: running = w S + (1 - w) T.

    T are those of the whole target, as a network sees it that mixes each batch's in the same way.
    The scan must truly run the network. Nothing is trained.
    """
    layers = mix_norms_(network, source_weight=source_weight, online=True)
    for layer in layers:
        layer.seen = Moments(layer.num_features, layer.source_mean.device)
    for _ in scan(network):
        pass
    for layer in layers:
        fold_(layer, source_weight)
    plain_norms_(network)


@torch.no_grad()
def fold_(layer: AlphaBN, source_weight: float) -> None:
    """Running statistics from the source's and those that the layer has seen."""
    if layer.seen is None or not layer.seen.count:
        return
    assert layer.running_mean is not None
    assert layer.running_var is not None
    mean, var = layer.seen.mean.float(), layer.seen.variance.float()
    layer.running_mean.copy_(source_weight * layer.source_mean + (1 - source_weight) * mean)
    layer.running_var.copy_(source_weight * layer.source_var + (1 - source_weight) * var)


def spare_lone_values(network: nn.Module) -> None:
    """Let batch norm use its running statistics wherever it meets one value a channel.

    In train mode torch refuses such input, as the pooled 1x1 maps of a batch of one image are.
    """
    for layer in network.modules():
        if isinstance(layer, Norm):
            layer.register_forward_pre_hook(_rest_if_lone)
            layer.register_forward_hook(_wake, always_call=True)


_RESTED = "rested"  # the mark of a layer whose mode we have set


def _rest_if_lone(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    lone = inputs[0].numel() == inputs[0].shape[1]
    if layer.training and lone:
        layer.training = False
        setattr(layer, _RESTED, True)


def _wake(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    if getattr(layer, _RESTED, False):
        layer.training = True
        setattr(layer, _RESTED, False)
