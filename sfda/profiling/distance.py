"""How far a target is from what a model learnt on, held against what chance makes of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float

from sfda.building_blocks.clustering import split_in_two
from sfda.images.preprocess import Stack
from sfda.profiling.statistics import Channels

BATCH = 64  # images of a batch that a model is trained on, as most are
DRAWS, QUANTILE = 200, 0.95  # of random batches, and of what they come to
NOISE_DEVIATIONS = 4.0  # of a correlation: beyond these it is no chance
APART = 5.0  # standard deviations between two groups: twice what one group cut in two has, or near


class Distance(NamedTuple):
    """A figure, and what it hardly exceeds where nothing differs but the draw."""

    figure: float
    limit: float


def batch_distance(layers: Sequence[Channels], seed: int = 0) -> Distance:
    """Distance of the means of channels from the source's, in standard deviations of the source:
    the mean over channels, and over layers.

    The limit is the 95 % quantile of the same distance between random batches of 64 images of the
    target and all of them: a shift below that is one that the model met from batch to batch while
    it was trained. Raises ValueError for no layers.
    """
    if not layers:
        raise ValueError("there are no layers to compare")
    images = len(layers[0].means)
    drawn = np.random.default_rng(seed).multinomial(BATCH, np.full(images, 1 / images), size=DRAWS)
    figures, chance = [], []
    for layer in layers:
        deviation = np.sqrt(layer.source_var)
        mean = layer.means.mean(0)
        figures.append(float((np.abs(mean - layer.source_mean) / deviation).mean()))
        batches = drawn / BATCH @ layer.means
        chance.append((np.abs(batches - mean) / deviation).mean(1))
    limit = float(np.quantile(np.mean(chance, axis=0), QUANTILE))
    return Distance(float(np.mean(figures)), limit)


def effective_number(counts: Float[np.ndarray, "*R C"]) -> Float[np.ndarray, " *R"]:
    """exp(entropy) of counts as shares: how many classes it would be, were all equally frequent.

    >>> effective_number(np.array([[2.0, 2.0, 0.0], [4.0, 0.0, 0.0]])).round(6).tolist()
    [2.0, 1.0]
    """
    shares = counts / counts.sum(-1, keepdims=True)
    return np.asarray(np.exp(-(shares * np.log(np.where(shares > 0, shares, 1))).sum(-1)))


def expected_number(shares: Sequence[float], images: int, seed: int = 0) -> float:
    """The effective number of classes that so many images show, drawn by these shares: the median
    of 200 draws. Few images of many classes show fewer.
    """
    chances = np.asarray(shares, dtype=float)
    drawn = np.random.default_rng(seed).multinomial(images, chances / chances.sum(), size=DRAWS)
    return float(np.median(effective_number(drawn.astype(float))))


def shares_apart(one: Mapping[str, float], other: Mapping[str, float]) -> float:
    """Distance (total variation) of two distributions over names: 0 the same, 1 without overlap.

    >>> shares_apart({"a": 8, "b": 2}, {"a": 1, "b": 1})
    0.3
    """
    sums = [sum(values.values()) or 1.0 for values in (one, other)]
    names = {*one, *other}
    gaps = (abs(one.get(n, 0) / sums[0] - other.get(n, 0) / sums[1]) for n in names)
    return round(sum(gaps) / 2, 12)


def neighbour_correlation(image: Stack) -> float:
    """Correlation of the pixels of an image [H, W, C] with their right neighbours; 1 of a flat one.

    >>> neighbour_correlation(np.zeros((4, 4, 1), np.uint8))
    1.0
    """
    grey = image.astype(np.float64).mean(-1)
    left, right = (side - side.mean() for side in (grey[:, :-1], grey[:, 1:]))
    spread = math.sqrt(float((left**2).sum() * (right**2).sum()))
    return float((left * right).sum()) / spread if spread > 0 else 1.0


def share_of_noise(correlations: Float[np.ndarray, " N"], pixels: int) -> float:
    """Share of images that are white noise beside others that are not; 0 where there are no two
    groups. `pixels` are those of an image.

    Of independent pixels the correlation is normal with a standard deviation of 1 / sqrt(pixels).
    All images of a noisy camera, or features stored as images, are one group and no fault.
    """
    if len(correlations) < 2:
        return 0.0
    upper = split_in_two(torch.from_numpy(np.asarray(correlations, np.float64)))[0].numpy()
    if upper.all() or not upper.any():
        return 0.0
    low, high = correlations[~upper], correlations[upper]
    within = NOISE_DEVIATIONS / math.sqrt(pixels)
    spread = math.sqrt((float(low.var()) + float(high.var())) / 2)
    apart = float(high.mean() - low.mean()) > APART * spread
    return float((~upper).mean()) if apart and abs(float(low.mean())) < within else 0.0
