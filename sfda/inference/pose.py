"""Crops to joints in pixels of the images they are from. All that serving needs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import nn

from sfda.building_blocks.heatmaps import decode
from sfda.errors import NotFinite
from sfda.images.crops import Crop, from_frame
from sfda.images.preprocess import Stack, answer, standardise
from sfda.images.store import Pictures
from sfda.refs import InputSpec

AT_ONCE = 64


class Crops(Protocol):
    """Where each row's crop lies in its image."""

    def crop(self, row: int) -> Crop:
        """That of one row."""
        ...


class Pose(NamedTuple):
    """Joints [K, 2] as (x, y) in pixels of the image, and the peak of each, about 0 to 1."""

    joints: np.ndarray
    scores: np.ndarray


def pose_all(
    network: nn.Module,
    images: Pictures | Stack,
    spec: InputSpec,
    crops: Crops | list[Crop],
    *,
    device: torch.device | str,
) -> Iterator[tuple[int, Pose]]:
    """(row, pose) of all prepared crops in order. Raises NotFinite."""
    device = torch.device(device)
    for start in range(0, len(images), AT_ONCE):
        stored = torch.from_numpy(np.array(images[start : start + AT_ONCE]))
        output = answer(network, standardise(stored, spec, device), device)
        if not output.logits.isfinite().all():
            raise NotFinite("the network's answers are not finite numbers")
        joints, peak = decode(output.heatmaps, image=spec.size)
        for row, (place, score) in enumerate(zip(joints, peak, strict=True), start):
            crop = crops[row] if isinstance(crops, list) else crops.crop(row)
            yield row, Pose(from_frame(place.cpu().numpy(), crop, spec.size), score.cpu().numpy())
