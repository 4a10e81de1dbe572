"""What validators ask where every image, or pixel, has one of C classes, for all such problems."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from jaxtyping import Float
from torch import Tensor

SCORED_PIXELS = 4096  # of one image that a score is taken over


def rows_of(logits: Float[Tensor, "B C *HW"]) -> Float[Tensor, "M C"]:
    """Logits as rows: of images as they are, of maps one row a pixel.

    Of a map with more than 4,096 pixels a regular grid counts, of at most about as many:
    neighbours say much the same.
    """
    if logits.ndim == 2:
        return logits
    height, width = logits.shape[2:]
    stride = math.ceil(math.sqrt(height * width / SCORED_PIXELS))
    top, left = min(stride, height) // 2, min(stride, width) // 2
    thin = logits[..., top::stride, left::stride]
    return thin.permute(0, 2, 3, 1).reshape(-1, logits.shape[1])


def class_entropy(output: Any) -> tuple[float, int]:
    """Sum of the entropies of the softmax, and over how many images or pixels."""
    logits = rows_of(output.logits).double()
    return float(-(logits.softmax(1) * logits.log_softmax(1)).sum()), len(logits)


def class_agreement(weak: Any, strong: Any, classes: int) -> Iterator[tuple[Tensor, Tensor]]:
    """How many images or pixels each class has in the weak view, and how many of those in both."""
    count = weak.logits.shape[1]
    one, other = (rows_of(view.logits).argmax(1) for view in (weak, strong))
    yield one.bincount(minlength=count), one[one == other].bincount(minlength=count)
