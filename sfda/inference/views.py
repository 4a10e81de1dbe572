"""What a network says of a weak and a strong view of the same images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from sfda.images.preprocess import standardise
from sfda.inference.forward import infer
from sfda.refs import InputSpec

if TYPE_CHECKING:
    from sfda.augment.photometric import Several, ViewMaker


def outputs_on_pair(
    network: nn.Module,
    maker: ViewMaker,
    stored: Several,
    epoch: int,
    rows: np.ndarray[Any, Any],
    spec: InputSpec,
    device: torch.device,
) -> tuple[Any, Any]:
    """Of views by a `ViewMaker`, which share their geometry."""
    weak, strong = (
        infer(
            network,
            standardise(torch.from_numpy(np.require(v, requirements=["C", "W"])), spec, device),
            device,
        )
        for v in maker.pair(stored, epoch, rows)
    )
    return weak, strong
