"""At which size a model is surest of a target's images: whether boxes and crops fit it."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
import torch
from jaxtyping import Float
from torch import nn

from sfda.images.preprocess import Stack
from sfda.profiling.findings import ProfileFinding
from sfda.profiling.statistics import statistics_of_images
from sfda.refs import ModelSpec

ZOOMS = (0.66, 0.76, 0.87, 1.0, 1.15, 1.32, 1.52)
IMAGES = 192  # that are looked at in each size
RESAMPLES = 1000
SURE = 0.95  # share of resamples that must agree; then 5 % of flat answers are told of


class BestZoom(NamedTuple):
    """The zoom that a model is surest at, and what share of resamples favours that side of 1."""

    zoom: float
    agree: float


def zoomed(images: Stack, zoom: float) -> Stack:
    """Images [N, H, W, C] enlarged about their middle, or made smaller within a border that repeats
    their edge; the size of the frame stays.
    """
    if zoom == 1:
        return images
    height, width = images.shape[1:3]
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), 0.0, zoom)
    moved = [
        cv2.warpAffine(
            image, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
        for image in images
    ]
    return np.stack(moved).reshape(images.shape).astype(np.uint8)


def best_zoom(certainty: Float[np.ndarray, "Z N"], seed: int = 0) -> BestZoom:
    """Which of ZOOMS has the largest mean, by the images and by resamples of them."""
    images = certainty.shape[1]
    drawn = np.random.default_rng(seed).multinomial(
        images, np.full(images, 1 / images), size=RESAMPLES
    )
    own = ZOOMS.index(1.0)
    best = int(certainty.mean(1).argmax())
    winners = (drawn @ certainty.T).argmax(1)
    same_side = np.sign(winners - own) == np.sign(best - own)
    return BestZoom(ZOOMS[best], float(same_side.mean()))


def scale_finding(
    network: nn.Module, spec: ModelSpec, images: Stack, device: torch.device
) -> ProfileFinding:
    """Whether a model would be surer if all were larger, or smaller. Raises NotFinite."""
    certainty = [
        statistics_of_images(network, spec, zoomed(images, zoom), device).certainty
        for zoom in ZOOMS
    ]
    best = best_zoom(np.stack(certainty))
    other = best.zoom != 1 and best.agree >= SURE
    sentence = (
        f"the model is surest of images enlarged by {best.zoom:g}, where 1 is their own size "
        f"({best.agree:.0%} of resamples agree)"
    )
    if other:
        sentence += ": boxes or crops are of another scale than it learnt"
    return ProfileFinding(
        name="scale",
        standing="notice" if other else "fine",
        figure=best.zoom,
        limit=1.0,
        sentence=sentence,
        remedy=f"try boxes, or a padding, of {1 / best.zoom:.2g} times the size" if other else "",
    )
