"""Average thresholded confidence (Garg et al., ICLR 2022, arXiv:2201.04234)."""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from sfda.errors import BadInput
from sfda.problems.class_outputs import rows_of
from sfda.types import SeenViews
from sfda.validators._base import Validator, ValidatorConfig
from sfda.weights.source_card import Card, missing


class Atc(Validator):
    """Share of the target's confidences above a threshold, in [0, 1]: an estimate of the accuracy.

    Above the threshold lies as large a share of the source's held-out confidences as its accuracy
    there; the largest probability is the score (ATC-MC). Both are read off the source card,
    whose histogram has 20 bins; within a bin confidences count as evenly spread.

    It assumes that confidence means the same on both sides, which is over once entropy has been
    minimised: it is for the source model alone, and chooses nothing.
    """

    idea = "share of confidences above the source's threshold; needs a source card"
    needs_card: ClassVar[bool] = True
    chooses: ClassVar[bool] = False
    tells_level: ClassVar[bool] = True

    def __init__(self, config: ValidatorConfig | None = None) -> None:
        super().__init__(config)
        self.threshold: float | None = None
        self.above, self.count = 0, 0

    def take_card(self, card: Card) -> None:
        """The threshold; raises BadInput for a card without histogram or calibration."""
        if lacking := missing(card, ("confidence_histogram", "calibration")):
            raise BadInput(f"the source card has no {', '.join(lacking)}")
        count, _, hits = card.tensors["calibration"].double()
        histogram = card.tensors["confidence_histogram"].double()
        self.threshold = quantile_of(histogram, 1 - float(hits.sum() / count.sum()))

    def update(self, seen: SeenViews) -> None:
        """Take in one batch of outputs with logits [B, C], or of pixels [B, C, H, W]."""
        if self.threshold is None:
            raise ValueError("atc needs the source card")
        sure = rows_of(seen.output.logits).double().softmax(1).amax(1)
        self.above += int((sure > self.threshold).sum())
        self.count += len(sure)

    def compute(self) -> float:
        """The estimate."""
        if not self.count:
            raise ValueError("atc of no predictions")
        return self.above / self.count


def quantile_of(histogram: Float[Tensor, " K"], share: float) -> float:
    """The largest value of [0, 1] below which no more than this share lies, of equal bins.

    >>> round(quantile_of(torch.tensor([0.0, 4.0, 0.0, 12.0]), 0.5), 3)
    0.833
    """
    ends = histogram.cumsum(0)
    below = min(max(share, 0.0), 1.0) * float(ends[-1])
    bin_of = min(int(torch.searchsorted(ends, below, right=True)), len(ends) - 1)
    inside = float(histogram[bin_of])
    part = (below - float(ends[bin_of]) + inside) / inside if inside else 0.0
    return (bin_of + part) / len(ends)


EXPORT = Atc
