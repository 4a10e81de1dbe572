"""Whole images to boxes in their own pixels, and back; and the boxes of a scan, kept."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from sfda.building_blocks.boxes import Boxes, BoxLabels
from sfda.images.preprocess import Stack, fitted, standardise
from sfda.images.store import Pictures, Ragged
from sfda.inference.forward import Size, images_at_once, infer, refuse_not_finite
from sfda.inference.predictions import HISTOGRAM_BINS, put_predictions, start_predictions
from sfda.refs import InputSpec, ModelSpec, PredictionsRef


def boxes_to_frame(labelled: BoxLabels, size: Size, spec: InputSpec) -> Boxes:
    """A person's boxes, but those of crowds, in the frame of the network. `size`: the image's."""
    single = ~labelled.crowd
    boxes = torch.from_numpy(labelled.boxes[single] * _ratio(size, spec))
    labels = torch.from_numpy(labelled.labels[single])
    return Boxes(boxes, labels, torch.ones(len(labels)))


def boxes_from_frame(framed: Boxes, size: Size, spec: InputSpec) -> Boxes:
    """Boxes of the network's frame in pixels of an image of `size`, clipped to it.

    What lies in the part of the frame that the image does not fill is no prediction.
    """
    boxes = framed.boxes.cpu().float() / torch.from_numpy(_ratio(size, spec))
    height, width = size
    limits = torch.tensor([width, height, width, height], dtype=torch.float32)
    boxes = torch.minimum(boxes.clamp(min=0), limits)
    left = ((boxes[:, 2:] - boxes[:, :2]) > 0).all(1)
    return Boxes(boxes, framed.labels.cpu(), framed.scores.cpu().float()).where(left)


def _ratio(size: Size, spec: InputSpec) -> np.ndarray:
    """Frame by image, for x1, y1, x2 and y2."""
    inner = fitted(size, spec)
    high, wide = inner[0] / size[0], inner[1] / size[1]
    return np.array([wide, high, wide, high], np.float32)


def detect_all(
    network: nn.Module,
    images: Pictures | Stack,
    spec: InputSpec,
    *,
    device: torch.device | str,
    sizes: Sequence[Size],
) -> Iterator[tuple[int, Boxes]]:
    """(row, boxes in pixels of the image) of all prepared images in order, the surest box first.

    `sizes` are those of the images as they came. Raises NotFinite.
    """
    device = torch.device(device)
    assert not isinstance(images, Ragged)  # of tiled inputs, which detectors have none of
    at_once = images_at_once((images.shape[1], images.shape[2]))
    for start in range(0, len(images), at_once):
        stored = torch.from_numpy(np.array(images[start : start + at_once]))
        output = infer(network, standardise(stored, spec, device), device)
        refuse_not_finite(output.logits)
        for row, boxes in enumerate(output.boxes, start):
            order = boxes.scores.argsort(descending=True, stable=True)
            yield row, boxes_from_frame(Boxes(*(part[order] for part in boxes)), sizes[row], spec)


def keep_predicted_boxes(
    predictions: Iterable[tuple[int, Boxes]],
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
    rows = list(predictions)
    image = np.repeat([row for row, _ in rows], [len(boxes.labels) for _, boxes in rows])
    columns = [np.concatenate([np.asarray(boxes[n]) for _, boxes in rows]) for n in range(3)]
    np.savez(
        part / "boxes.npz",
        boxes=columns[0],
        labels=columns[1],
        scores=columns[2],
        image=image.astype(np.int64),
    )
    profile = box_profile(columns[1], columns[2], spec.classes, size)
    return put_predictions(part, folder, profile, size=size, source_sha256=source_sha256)


def box_profile(
    labels: np.ndarray[Any, Any], scores: np.ndarray[Any, Any], classes: tuple[str, ...], size: int
) -> dict[str, Any]:
    """`classes` {name: boxes}, `confidence_histogram` (20 bins), `mean_confidence`, `unit`, and
    `per_image`, the mean number of boxes.
    """
    counts = np.bincount(labels, minlength=len(classes))
    bin_of = np.minimum((scores * HISTOGRAM_BINS).astype(int), HISTOGRAM_BINS - 1)
    return {
        "classes": dict(zip(classes, counts.tolist(), strict=True)),
        "confidence_histogram": np.bincount(bin_of, minlength=HISTOGRAM_BINS).tolist(),
        "mean_confidence": float(scores.mean()) if len(scores) else 0.0,
        "per_image": len(scores) / max(1, size),
        "unit": "boxes",
    }
