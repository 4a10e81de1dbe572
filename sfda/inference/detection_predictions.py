"""One scan of a target for detection, kept: the boxes of every image, their classes and scores."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from sfda.building_blocks.boxes import Boxes
from sfda.inference.predictions import HISTOGRAM_BINS, put_predictions, start_predictions
from sfda.refs import ModelSpec, PredictionsRef


def keep_boxes(
    answers: Iterable[tuple[int, Boxes]],
    spec: ModelSpec,
    folder: Path,
    *,
    size: int,
    source_sha256: str,
) -> PredictionsRef:
    """Keep what the source model says of every image: boxes in pixels of the images.

    Below `folder` lies `boxes.npz`: `boxes` [M, 4] as x1, y1, x2, y2, `labels` [M], `scores` [M]
    and `image` [M], the row that each belongs to.
    """
    part = start_predictions(folder)
    found = [(row, boxes) for row, boxes in answers]
    image = np.repeat([row for row, _ in found], [len(b.labels) for _, b in found])
    columns = [
        np.concatenate([np.asarray(boxes[place]) for _, boxes in found]) for place in range(3)
    ]
    np.savez(
        part / "boxes.npz", boxes=columns[0], labels=columns[1], scores=columns[2],
        image=image.astype(np.int64),
    )  # fmt: skip
    profile = box_profile(columns[1], columns[2], spec.classes, size)
    return put_predictions(part, folder, profile, size=size, source_sha256=source_sha256)


def box_profile(
    labels: np.ndarray[Any, Any], scores: np.ndarray[Any, Any], classes: tuple[str, ...], size: int
) -> dict[str, Any]:
    """`classes` {name: boxes}, `confidence_histogram` (20 bins), `mean_confidence`, `unit`, and
    `per_image`, the mean number of boxes.
    """
    counts = np.bincount(labels, minlength=len(classes))
    place = np.minimum((scores * HISTOGRAM_BINS).astype(int), HISTOGRAM_BINS - 1)
    return {
        "classes": dict(zip(classes, counts.tolist(), strict=True)),
        "confidence_histogram": np.bincount(place, minlength=HISTOGRAM_BINS).tolist(),
        "mean_confidence": float(scores.mean()) if len(scores) else 0.0,
        "per_image": len(scores) / max(1, size),
        "unit": "boxes",
    }
