"""Whole images to boxes in their own pixels, and back. All that serving needs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import nn

from sfda.building_blocks.boxes import Boxes, BoxLabels
from sfda.errors import NotFinite
from sfda.images.preprocess import Stack, answer, fitted, standardise
from sfda.images.store import Pictures, Ragged
from sfda.refs import InputSpec

PIXELS = 2**19  # of one batch
Size = tuple[int, int]


def to_frame(found: BoxLabels, size: Size, spec: InputSpec) -> Boxes:
    """A person's boxes, but those of crowds, in the frame of the network. `size`: the image's."""
    single = ~found.crowd
    boxes = torch.from_numpy(found.boxes[single] * _ratio(size, spec))
    labels = torch.from_numpy(found.labels[single])
    return Boxes(boxes, labels, torch.ones(len(labels)))


def from_frame(found: Boxes, size: Size, spec: InputSpec) -> Boxes:
    """Boxes of the network's frame in pixels of an image of `size`, clipped to it.

    What lies in the part of the frame that the image does not fill is no answer.
    """
    boxes = found.boxes.cpu().float() / torch.from_numpy(_ratio(size, spec))
    height, width = size
    limits = torch.tensor([width, height, width, height], dtype=torch.float32)
    boxes = torch.minimum(boxes.clamp(min=0), limits)
    left = ((boxes[:, 2:] - boxes[:, :2]) > 0).all(1)
    return Boxes(boxes, found.labels.cpu(), found.scores.cpu().float()).where(left)


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
    at_once = max(1, PIXELS // (images.shape[1] * images.shape[2]))
    for start in range(0, len(images), at_once):
        stored = torch.from_numpy(np.array(images[start : start + at_once]))
        output = answer(network, standardise(stored, spec, device), device)
        if not output.logits.isfinite().all():
            raise NotFinite("the network's answers are not finite numbers")
        for row, found in enumerate(output.found, start):
            order = found.scores.argsort(descending=True, stable=True)
            yield row, from_frame(Boxes(*(part[order] for part in found)), sizes[row], spec)
