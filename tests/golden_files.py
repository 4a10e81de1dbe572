"""Numbers that the authors' own code returned, and a backbone that lets a test set the logits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

GOLDEN = Path(__file__).parent / "golden"


def load(name: str) -> dict[str, Any]:
    """The arrays of `golden/<name>.npz` as tensors; further samples of some lie in its parts."""
    tensors: dict[str, Any] = {}
    for file in (GOLDEN / f"{name}.npz", *sorted(GOLDEN.glob(f"{name}.part[0-9].npz"))):
        with np.load(file, allow_pickle=False) as arrays:
            for key in arrays.files:
                if arrays[key].dtype.kind == "U":
                    continue  # versions of what it was made with
                value = torch.from_numpy(np.array(arrays[key]))
                tensors[key] = torch.cat([tensors[key], value]) if key in tensors else value
    return tensors


class PassThrough(nn.Module):
    """A backbone whose features are its input."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1)
