"""Difference of confidences (Guillory et al., ICCV 2021, arXiv:2107.03315)."""

from __future__ import annotations

from typing import ClassVar

from sfda.errors import BadInput
from sfda.problems.class_outputs import rows_of
from sfda.types import SeenViews
from sfda.validators._base import Validator, ValidatorConfig
from sfda.weights.source_card import Card, missing


class Doc(Validator):
    """The source's accuracy less what its mean confidence loses on the target, in [0, 1].

    Accuracy and confidence on the source are read off its card. The paper also fits a slope on many
    shifts; with a single source it is 1.

    It assumes that confidence falls as accuracy does, which is over once entropy has been
    minimised: it is for the source model alone, and chooses nothing.
    """

    idea = "the source's accuracy less the confidence that is lost; needs a source card"
    needs_card: ClassVar[bool] = True
    chooses: ClassVar[bool] = False
    tells_level: ClassVar[bool] = True

    def __init__(self, config: ValidatorConfig | None = None) -> None:
        super().__init__(config)
        self.excess: float | None = None  # of the source's accuracy over its confidence
        self.total, self.count = 0.0, 0

    def take_card(self, card: Card) -> None:
        """Accuracy and confidence; raises BadInput for a card without calibration."""
        if missing(card, ("calibration",)):
            raise BadInput("the source card has no calibration")
        count, sure, hits = card.tensors["calibration"].double().sum(1)
        self.excess = float((hits - sure) / count)

    def update(self, seen: SeenViews) -> None:
        """Take in one batch of outputs with logits [B, C], or of pixels [B, C, H, W]."""
        sure = rows_of(seen.output.logits).double().softmax(1).amax(1)
        self.total += float(sure.sum())
        self.count += len(sure)

    def compute(self) -> float:
        """The estimate of the accuracy."""
        if not self.count:
            raise ValueError("doc of no predictions")
        if self.excess is None:
            raise ValueError("doc needs the source card")
        return min(1.0, max(0.0, self.total / self.count + self.excess))


EXPORT = Doc
