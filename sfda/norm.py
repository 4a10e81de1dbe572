"""Batch-norm layers: which ones a network has, and whose statistics they use."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

Norm = nn.modules.batchnorm._BatchNorm


def norms(network: nn.Module) -> list[Norm]:
    """All batch-norm layers that keep statistics."""
    return [
        layer
        for layer in network.modules()
        if isinstance(layer, Norm) and layer.running_mean is not None
    ]


@contextmanager
def batch_statistics(network: nn.Module, wanted: bool = True) -> Iterator[None]:
    """Inside, batch norm normalises with the batch and moves its running statistics.

    All else stays in the mode it is in, dropout among it. Nothing changes unless `wanted`.
    """
    layers = [layer for layer in norms(network) if wanted and not layer.training]
    for layer in layers:
        layer.train()
    try:
        yield
    finally:
        for layer in layers:
            layer.eval()
