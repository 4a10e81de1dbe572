"""Numbers that the authors' own code returned, and a backbone that lets a test set the logits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

GOLDEN = Path(__file__).parent / "golden"


def load(name: str) -> dict[str, Any]:
    """The arrays of `golden/<name>.npz` as tensors."""
    with np.load(GOLDEN / f"{name}.npz", allow_pickle=False) as arrays:
        return {key: torch.from_numpy(np.array(arrays[key])) for key in arrays.files}


class PassThrough(nn.Module):
    """A backbone whose features are its input."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1)
