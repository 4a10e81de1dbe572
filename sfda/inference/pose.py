"""Crops to joints in pixels of the images they are from; and the joints of a scan, kept."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import nn

from sfda.building_blocks.heatmaps import joints_from_maps
from sfda.images.crops import Crop, from_crop_frame
from sfda.images.preprocess import Stack, standardise
from sfda.images.store import Pictures
from sfda.inference.forward import infer, refuse_not_finite
from sfda.inference.predictions import HISTOGRAM_BINS, put_predictions, start_predictions
from sfda.refs import InputSpec, ModelSpec, PredictionsRef

CROPS_AT_ONCE = 64


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
    for start in range(0, len(images), CROPS_AT_ONCE):
        stored = torch.from_numpy(np.array(images[start : start + CROPS_AT_ONCE]))
        output = infer(network, standardise(stored, spec, device), device)
        refuse_not_finite(output.logits)
        joints, peak = joints_from_maps(output.heatmaps, image=spec.size)
        for row, (points, score) in enumerate(zip(joints, peak, strict=True), start):
            crop = crops[row] if isinstance(crops, list) else crops.crop(row)
            yield (
                row,
                Pose(from_crop_frame(points.cpu().numpy(), crop, spec.size), score.cpu().numpy()),
            )


SURE_PEAK = 0.5  # height of a peak


def keep_predicted_poses(
    predictions: Iterable[tuple[int, Pose]],
    spec: ModelSpec,
    folder: Path,
    *,
    size: int,
    source_sha256: str,
) -> PredictionsRef:
    """Keep what the source model says of every person, in pixels of the images.

    Below `folder` lies `poses.npz`: `joints` [N, K, 2] and `scores` [N, K].
    """
    part = start_predictions(folder)
    joints = np.zeros((size, len(spec.classes), 2), np.float32)
    scores = np.zeros((size, len(spec.classes)), np.float32)
    for row, pose in predictions:
        joints[row], scores[row] = pose
    np.savez(part / "poses.npz", joints=joints, scores=scores)
    bin_of = np.clip((scores * HISTOGRAM_BINS).astype(int), 0, HISTOGRAM_BINS - 1)
    profile: dict[str, Any] = {
        "classes": dict(zip(spec.classes, (scores >= SURE_PEAK).sum(0).tolist(), strict=True)),
        "confidence_histogram": np.bincount(bin_of.ravel(), minlength=HISTOGRAM_BINS).tolist(),
        "mean_confidence": float(scores.mean()) if size else 0.0,
        "unit": "sure joints",
    }
    return put_predictions(part, folder, profile, size=size, source_sha256=source_sha256)
