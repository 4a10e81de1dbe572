"""Distances between the surfaces of two masks, of images or volumes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

MaskArray = Bool[np.ndarray, "..."]


def surface_distances(
    predicted: MaskArray, truth: MaskArray, spacing: Sequence[float]
) -> tuple[Float[np.ndarray, " S"], Float[np.ndarray, " T"]]:
    """From each surface pixel of one mask the distance to the other's surface, both ways.

    In the units of `spacing`, the size of a pixel along each axis. A surface are the pixels that an
    erosion by the 4 (in volumes 6) neighbours takes away; beyond the image there is nothing.
    ValueError where a mask is empty: there is no distance.
    """
    if not predicted.any() or not truth.any():
        raise ValueError("the distance to an empty mask is undefined")
    box = ndimage.find_objects((predicted | truth).astype(np.uint8))[0]
    ours, theirs = surface(predicted[box]), surface(truth[box])
    return (
        ndimage.distance_transform_edt(~theirs, sampling=spacing)[ours],
        ndimage.distance_transform_edt(~ours, sampling=spacing)[theirs],
    )


def surface(mask: MaskArray) -> MaskArray:
    """Pixels of the mask with a neighbour, or the image's border, beside them."""
    near = ndimage.generate_binary_structure(mask.ndim, 1)
    edge: MaskArray = mask ^ ndimage.binary_erosion(mask, near)
    return edge


def hd95(predicted: MaskArray, truth: MaskArray, spacing: Sequence[float]) -> float:
    """95 % of all distances between the surfaces, both ways taken together, are not larger.

    Linear interpolation; not the maximum of two directed percentiles, which other tools report.
    """
    return float(np.percentile(np.concatenate(surface_distances(predicted, truth, spacing)), 95))


def assd(predicted: MaskArray, truth: MaskArray, spacing: Sequence[float]) -> float:
    """Average symmetric surface distance: the mean of the two directed means."""
    return float(np.mean([one.mean() for one in surface_distances(predicted, truth, spacing)]))
