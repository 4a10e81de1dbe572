"""One scan of a target for segmentation, kept: a mask, its confidence and its ratios an image."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image

from sfda.inference.predictions import HISTOGRAM_BINS, put_predictions, start_predictions
from sfda.refs import ModelSpec, PredictionsRef


def keep_masks(
    answers: Iterable[tuple[int, UInt8[np.ndarray, "H W"], UInt8[np.ndarray, "H W"]]],
    spec: ModelSpec,
    folder: Path,
    *,
    size: int,
    source_sha256: str,
) -> PredictionsRef:
    """Keep what the source model says of every image: (row, mask, confidence times 255).

    Below `folder` lie `masks/<row>.png` and `confidences/<row>.png`, and `ratios.npy` [N, C], the
    share of each class in each image. Nothing but one image is in memory.
    """
    part = start_predictions(folder)
    for name in ("masks", "confidences"):
        (part / name).mkdir()
    profile = PixelProfile(spec.classes)
    ratios = np.zeros((size, len(spec.classes)), dtype=np.float32)
    for row, mask, confidence in answers:
        counts = np.bincount(mask.ravel(), minlength=len(spec.classes))
        ratios[row] = counts / counts.sum()
        profile.update(counts, confidence)
        Image.fromarray(mask).save(part / "masks" / f"{row:06d}.png")
        Image.fromarray(confidence).save(part / "confidences" / f"{row:06d}.png")
    np.save(part / "ratios.npy", ratios)
    return put_predictions(part, folder, profile.compute(), size=size, source_sha256=source_sha256)


class PixelProfile:
    """Class and confidence histograms over the pixels of a set."""

    def __init__(self, classes: tuple[str, ...]) -> None:
        self.classes = classes
        self.counts = np.zeros(len(classes), dtype=np.int64)
        self.levels = np.zeros(256, dtype=np.int64)

    def update(self, counts: Int[np.ndarray, " C"], confidence: UInt8[np.ndarray, "H W"]) -> None:
        """Take in one image: pixels by class, and the confidence of each."""
        self.counts += counts
        self.levels += np.bincount(confidence.ravel(), minlength=256)

    def compute(self) -> dict[str, Any]:
        """`classes` {name: pixels}, `confidence_histogram` (20 bins), `mean_confidence`, `unit`."""
        level = np.arange(256) / 255
        place = np.minimum((level * HISTOGRAM_BINS).astype(int), HISTOGRAM_BINS - 1)
        bins = np.bincount(place, weights=self.levels, minlength=HISTOGRAM_BINS).astype(np.int64)
        pixels = max(1, int(self.levels.sum()))
        return {
            "classes": dict(zip(self.classes, self.counts.tolist(), strict=True)),
            "confidence_histogram": bins.tolist(),
            "mean_confidence": float((level * self.levels).sum() / pixels),
            "unit": "pixels",
        }
