"""Whether new images look different to a model: population stability index of its profile."""

from __future__ import annotations

import math
from collections.abc import Sequence

from sfda.config import Config
from sfda.refs import Profile

SMOOTH = 0.5  # added to every count: an empty bin has no logarithm
LEAST = 30  # images on each side below which nothing can be told


class Drift(Config):
    """How far two profiles are apart.

    `index` is the larger index of classes and confidences, `noise` what it would hardly exceed if
    nothing had changed; both are without unit.
    """

    index: float
    noise: float

    def exceeds(self, threshold: float) -> bool:
        """Whether the index is above the threshold by more than chance explains."""
        return self.index > threshold + self.noise


def stability_index(before: Sequence[float], now: Sequence[float]) -> tuple[float, float]:
    """Population stability index of two histograms with the same bins, and its noise.

    The index is Σ (p - q) ln(p / q) over shares p and q of the bins, a symmetric Kullback-Leibler
    divergence. Of two samples of one distribution, m and n counts large, it is about
    (1/m + 1/n) χ²(B - 1); the noise is mean plus two standard deviations of that, over the bins B
    that are not empty on both sides.

    >>> index, noise = stability_index([50, 50], [50, 50])
    >>> round(index, 6), round(noise, 3)
    (0.0, 0.077)
    """
    pairs = [(a, b) for a, b in zip(before, now, strict=True) if a or b]
    m, n = sum(a for a, _ in pairs), sum(b for _, b in pairs)
    if not m or not n:
        return 0.0, math.inf
    extra = SMOOTH * len(pairs)
    index = 0.0
    for a, b in pairs:
        p, q = (a + SMOOTH) / (m + extra), (b + SMOOTH) / (n + extra)
        index += (p - q) * math.log(p / q)
    freedom = max(1, len(pairs) - 1)
    return index, (freedom + 2 * math.sqrt(2 * freedom)) * (1 / m + 1 / n)


def drift_between(before: Profile, now: Profile, images: tuple[int, int]) -> Drift | None:
    """Drift from one profile to another, of one model; None where there is too little to tell.

    A profile has `classes` (name to count) and `confidence_histogram` (counts in equal bins).
    `images` are the numbers of images that they are of: pixels and boxes of one image are not
    independent, so each image counts once, however many of them it holds.
    """
    if min(images) < LEAST:
        return None
    names = sorted({*before["classes"], *now["classes"]})
    pairs = (
        ([before["classes"].get(n, 0) for n in names], [now["classes"].get(n, 0) for n in names]),
        (before["confidence_histogram"], now["confidence_histogram"]),
    )
    indices = [
        stability_index(_scaled(a, images[0]), _scaled(b, images[1]))
        for a, b in pairs
        if sum(a) and sum(b)
    ]
    if not indices:
        return None
    index, noise = max(indices, key=lambda pair: pair[0] - pair[1])
    return Drift(index=index, noise=noise)


def _scaled(counts: Sequence[float], most: int) -> list[float]:
    """The same shares, `most` counts at most."""
    factor = min(1.0, most / sum(counts))
    return [count * factor for count in counts]
