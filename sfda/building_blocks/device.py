"""Which device a stage runs on, and what it used there."""

from __future__ import annotations

import os
import resource
import sys

import torch
from torch import nn
from torch.utils import deterministic

from sfda.errors import BadInput
from sfda.settings import DeviceName as DeviceName


def choose(name: DeviceName) -> torch.device:
    """The GPU where there is one, for `auto`. BadInput for `cuda` where there is none."""
    if name == "cuda" and not torch.cuda.is_available():
        raise BadInput("no CUDA device is visible; use --device cpu or check the driver")
    if name == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    # all of it is written before it is read
    deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.cuda.reset_peak_memory_stats()
    return torch.device("cuda")


def resolve(name: DeviceName) -> DeviceName:
    """What `auto` stands for here, so that results of one device never stand in for another's."""
    return "cuda" if choose(name).type == "cuda" else "cpu"


def to_device(network: nn.Module, device: torch.device) -> nn.Module:
    """The network on its device, with channels last, which convolutions prefer."""
    network.to(memory_format=torch.channels_last)
    return network.to(device)


def peak_memory_mb(device: torch.device) -> float:
    """The most memory held so far, in MB: by the GPU's tensors, or by this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak / 1e3
