"""The main metric of a resample of a labelled split, out of what was kept of each image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.sparse import csr_matrix

ImageCounts = Int[np.ndarray, " N"]
"""How often each image counts in a resample."""


class Resampled(NamedTuple):
    """`metric` by name, and what it is of a resample; 0 where that has nothing to score."""

    metric: str
    of: Callable[[ImageCounts], float]
    resamples: int = 1000  # that take a few seconds for ten thousand images


class Tables:
    """Confusion counts of each image, of which a resample's are the weighted sum. Of each image
    those alone are held that are not 0.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.cells: list[Int[np.ndarray, " P"]] = []
        self.counts: list[Int[np.ndarray, " P"]] = []

    def add(self, truth: Int[np.ndarray, " P"], predicted: Int[np.ndarray, " P"]) -> None:
        """One image: pairs of classes, of the image or of its pixels."""
        cells, counts = np.unique(
            truth.astype(np.int64) * self.size + predicted, return_counts=True
        )
        self.cells.append(cells)
        self.counts.append(counts)

    def summed(self) -> Callable[[ImageCounts], Float[np.ndarray, "K K"]]:
        """The table of a resample: rows are the truth, columns the predictions."""
        ends = np.concatenate([[0], np.cumsum([len(part) for part in self.cells])])
        shape = (len(self.cells), self.size**2)
        values = np.concatenate([*self.counts, np.zeros(0)]).astype(np.float64)
        places = np.concatenate([*self.cells, np.zeros(0, np.int64)]).astype(np.int64)
        table = csr_matrix((values, places, ends), shape=shape)

        def of(weights: ImageCounts) -> Float[np.ndarray, "K K"]:
            total: Float[np.ndarray, "K K"] = np.asarray(table.T @ weights, dtype=np.float64)
            return total.reshape(self.size, self.size)

        return of


def mean_of_present(part: Float[np.ndarray, " C"], whole: Float[np.ndarray, " C"]) -> float:
    """Mean over the classes whose whole is not 0 of the shares; 0 where there is none.

    >>> mean_of_present(np.array([1.0, 0.0, 0.0]), np.array([2.0, 4.0, 0.0]))
    0.25
    """
    present = whole > 0
    return float((part[present] / whole[present]).mean()) if present.any() else 0.0


RECALLS = np.linspace(0.0, 1.0, 101)  # COCO's recalls


class RankedBoxes:
    """Predictions of one class, the surest first, of which precision and recall of a resample are
    needed at the right ones alone: in between lie so many wrong ones of each image.
    """

    def __init__(
        self,
        right: Bool[np.ndarray, " M"],
        image: Int[np.ndarray, " M"],
        boxes: Int[np.ndarray, " N"],
    ) -> None:
        """Whether each prediction is right, and its image; `boxes` of the truth of each image."""
        self.boxes = boxes
        self.image = image[right]
        before = np.cumsum(right)[~right]  # right ones that are surer
        counts = before < len(self.image)  # after the last of these nothing matters
        places = (before[counts], image[~right][counts])
        shape = (len(self.image), len(boxes))
        self.wrong = csr_matrix((np.ones(len(places[0])), places), shape=shape)

    def average_precision(self, weights: ImageCounts) -> float:
        """COCO's of a resample that has a box of the truth."""
        counted = weights[self.image].astype(np.float64)
        there = counted > 0
        if not there.any():
            return 0.0
        hits = np.cumsum(counted)
        every = (hits + np.cumsum(self.wrong @ weights))[there]
        hits = hits[there]
        precision = np.maximum.accumulate((hits / every)[::-1])[::-1]
        places = np.searchsorted(hits / (weights @ self.boxes), RECALLS, side="left")
        return float(precision[places[places < len(precision)]].sum()) / len(RECALLS)


def mean_average_precision(ranked: Sequence[RankedBoxes], weights: ImageCounts) -> float:
    """COCO's mean of a resample over the classes that occur in it; 0 where there is none."""
    values = [one.average_precision(weights) for one in ranked if weights @ one.boxes > 0]
    return float(np.mean(values)) if values else 0.0
