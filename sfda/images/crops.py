"""Square crops of persons, and pixels of the image as pixels of a network's frame and back."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sfda.images.intensity_window import Picture

Box = tuple[float, float, float, float]  # x, y, width, height


class Crop(NamedTuple):
    """A square of an image, in whole pixels; it may reach beyond the image."""

    left: int
    top: int
    side: int


def square(box: Box, padding: float) -> Crop:
    """The square around the middle of a box, `padding` times its longer side."""
    x, y, width, height = box
    side = max(1, round(padding * max(width, height)))
    return Crop(round(x + width / 2 - side / 2), round(y + height / 2 - side / 2), side)


def cut(image: Picture, crop: Crop) -> Picture:
    """The crop of an image; what lies beyond the image is black."""
    height, width = image.shape[:2]
    out = np.zeros((crop.side, crop.side, *image.shape[2:]), image.dtype)
    top, left = max(0, crop.top), max(0, crop.left)
    below, right = min(height, crop.top + crop.side), min(width, crop.left + crop.side)
    if below > top and right > left:
        into = np.s_[top - crop.top : below - crop.top, left - crop.left : right - crop.left]
        out[into] = image[top:below, left:right]
    return out


def to_crop_frame(joints: np.ndarray, crop: Crop, size: tuple[int, int]) -> np.ndarray:
    """Pixels (x, y) of the image in those of a network's frame that the crop fills."""
    ratio = np.array([size[1], size[0]]) / crop.side
    return np.asarray((joints - (crop.left, crop.top) + 0.5) * ratio - 0.5)


def from_crop_frame(joints: np.ndarray, crop: Crop, size: tuple[int, int]) -> np.ndarray:
    """The way back."""
    ratio = np.array([size[1], size[0]]) / crop.side
    return np.asarray((joints + 0.5) / ratio - 0.5 + (crop.left, crop.top))
