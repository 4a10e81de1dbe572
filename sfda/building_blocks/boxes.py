"""Boxes of a batch, and what may be done with them without knowing the detector."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

SPARED = 0.5  # IoU with a doubtful box at which nothing is taught to be background
SIDE = 1e-2  # pixels: a box must be wider and higher, or its regression target is infinite


class Boxes(NamedTuple):
    """Boxes of one image as x1, y1, x2, y2 in pixels of the network's frame, and their classes.

    `scores` are probabilities; those of boxes that a person drew are 1.
    """

    boxes: Float[Tensor, "n 4"]
    labels: Int[Tensor, " n"]
    scores: Float[Tensor, " n"]

    def where(self, chosen: Bool[Tensor, " n"]) -> Boxes:
        """Those that are chosen, in order."""
        return Boxes(*(part[chosen] for part in self))

    def to(self, device: torch.device | str) -> Boxes:
        """The same on a device."""
        return Boxes(*(part.to(device) for part in self))


class BoxLabels(NamedTuple):
    """Boxes of one image as x1, y1, x2, y2 in its own pixels; those of crowds only mark a place."""

    boxes: np.ndarray[Any, np.dtype[np.float32]]  # [n, 4]
    labels: np.ndarray[Any, np.dtype[np.int64]]  # [n], indices of the manifest's classes
    crowd: np.ndarray[Any, np.dtype[np.bool_]]  # [n]


def usable(boxes: Float[Tensor, "n 4"], side: float = SIDE) -> Bool[Tensor, " n"]:
    """Which boxes are finite and wider and higher than `side` pixels.

    A box clipped to nothing can pass a test of its score, and its regression target is the
    logarithm of 0.

    >>> usable(torch.tensor([[0.0, 0, 2, 2], [3, 0, 3, 2], [0, 0, float("inf"), 1]])).tolist()
    [True, False, False]
    """
    sides = boxes[:, 2:] - boxes[:, :2]
    return boxes.isfinite().all(1) & (sides > side).all(1)


def sure_boxes(boxes: Boxes, threshold: float, side: float = SIDE) -> Boxes:
    """Boxes whose score is strictly above `threshold` and that are usable, in order."""
    return boxes.where((boxes.scores > threshold) & usable(boxes.boxes, side))


def mirrored(boxes: Boxes, width: int) -> Boxes:
    """The boxes of the image mirrored left to right."""
    x1, y1, x2, y2 = boxes.boxes.unbind(1)
    return boxes._replace(boxes=torch.stack([width - x2, y1, width - x1, y2], 1))


def box_iou(one: Float[Tensor, "n 4"], other: Float[Tensor, "m 4"]) -> Float[Tensor, "n m"]:
    """Intersection over union of every box of one with every box of the other."""
    from torchvision import ops  # with it comes torch's compiler: 150 MB for a manifest

    iou: Tensor = ops.box_iou(one, other)
    return iou


def spared(
    labels: Int[Tensor, " n"], boxes: Float[Tensor, "n 4"], doubtful: Float[Tensor, "m 4"]
) -> Int[Tensor, " n"]:
    """Labels of boxes, with background (0) that overlaps a doubtful box left out (-1)."""
    if not len(doubtful) or not len(boxes):
        return labels
    near = box_iou(boxes, doubtful.to(boxes)).amax(1) >= SPARED
    return torch.where(near & (labels == 0), torch.full_like(labels, -1), labels)
