"""One scan of a target for pose, kept: the joints of every person and their peaks."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from sfda.inference.pose import Pose
from sfda.inference.predictions import HISTOGRAM_BINS, put_predictions, start_predictions
from sfda.refs import ModelSpec, PredictionsRef

SURE = 0.5  # height of a peak


def keep_poses(
    answers: Iterable[tuple[int, Pose]],
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
    for row, pose in answers:
        joints[row], scores[row] = pose
    np.savez(part / "poses.npz", joints=joints, scores=scores)
    place = np.clip((scores * HISTOGRAM_BINS).astype(int), 0, HISTOGRAM_BINS - 1)
    profile: dict[str, Any] = {
        "classes": dict(zip(spec.classes, (scores >= SURE).sum(0).tolist(), strict=True)),
        "confidence_histogram": np.bincount(place.ravel(), minlength=HISTOGRAM_BINS).tolist(),
        "mean_confidence": float(scores.mean()) if size else 0.0,
        "unit": "sure joints",
    }
    return put_predictions(part, folder, profile, size=size, source_sha256=source_sha256)
