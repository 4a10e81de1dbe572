"""When a prediction is "unknown": normalised entropy against a threshold."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sfda.building_blocks.clustering import split_in_two
from sfda.building_blocks.losses import ClassLogits, entropy
from sfda.types import UNKNOWN

UNKNOWN_NAME = "unknown"  # what a rejected sample is called


def uncertainty(probs: Float[Tensor, "B C"]) -> Float[Tensor, " B"]:
    """Entropy as a share of its largest value log C, in [0, 1]; GLC's u (arXiv:2303.07110).

    >>> uncertainty(torch.tensor([[0.5, 0.5], [1.0, 0.0]])).round(decimals=3).tolist()
    [1.0, 0.0]
    """
    return (entropy(probs) / math.log(probs.shape[1])).clamp(0, 1)


def predicted_labels(probs: Float[Tensor, "B C"], threshold: float | None) -> Int[Tensor, " B"]:
    """The likeliest class, or UNKNOWN where the uncertainty exceeds `threshold`; None: never."""
    likeliest = probs.argmax(1)
    if threshold is None:
        return likeliest
    return likeliest.masked_fill(uncertainty(probs) > threshold, UNKNOWN)


class TwoClusters:
    """The threshold that splits a set's uncertainties into two clusters, fed batch by batch.

    SHOT for open targets (arXiv:2002.08546, section 3.4) clusters the test set's entropies; ours
    come from the adapted set, since a deployed model answers image by image.
    """

    def __init__(self) -> None:
        self.uncertainties: list[Tensor] = []

    def update(self, output: ClassLogits) -> None:
        """Take in outputs with logits [B, C]."""
        self.uncertainties.append(uncertainty(output.logits.float().softmax(1)).cpu())

    def compute(self) -> float:
        """The threshold, midway between the clusters' means."""
        return float(split_in_two(torch.cat(self.uncertainties))[1])

    def share_above(self, threshold: float) -> float:
        """Share of the set whose uncertainty exceeds a threshold; 0 of an empty set."""
        every = torch.cat(self.uncertainties) if self.uncertainties else torch.zeros(0)
        return float((every > threshold).double().mean()) if len(every) else 0.0
