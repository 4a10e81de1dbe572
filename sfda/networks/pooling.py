"""Pooling of regions on a GPU, by torchvision's CUDA kernel.

Under deterministic algorithms torchvision replaces that kernel by Python code which it compiles
anew for every number of boxes: a step of a detector then takes seconds. The kernel's gradient adds
up in no fixed order, so detectors on a GPU are reproducible up to rounding alone.
"""

from __future__ import annotations

import torch
from torch import nn

POOLING_LAYERS = ("MultiScaleRoIAlign", "RoIAlign")


def keep_cuda_pooling_(network: nn.Module) -> None:
    """Let every layer that pools regions use its CUDA kernel, whatever else is deterministic."""
    for layer in network.modules():
        if type(layer).__name__ in POOLING_LAYERS:
            layer.register_forward_pre_hook(_allow_kernel)
            layer.register_forward_hook(_as_before, always_call=True)


def _allow_kernel(layer: nn.Module, _inputs: object) -> None:
    enabled = torch.are_deterministic_algorithms_enabled()
    layer.__dict__["deterministic_before"] = enabled
    if enabled:
        torch.use_deterministic_algorithms(False)


def _as_before(layer: nn.Module, _inputs: object, _output: object) -> None:
    if layer.__dict__.pop("deterministic_before", False):
        torch.use_deterministic_algorithms(True, warn_only=True)
