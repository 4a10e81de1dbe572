"""A helper of the package's own modules."""

from __future__ import annotations

import torch
from torch import Tensor


def entropy_of(probs: Tensor) -> Tensor:
    """Shannon entropy [B] of distributions [B, C], in nats."""
    return -torch.xlogy(probs, probs).sum(1)
