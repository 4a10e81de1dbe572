"""Soft Dice confidence of masks (Borges et al., arXiv:2402.10665)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn

from sfda.problems.class_outputs import rows_of
from sfda.problems.segmentation.network import Segmenter
from sfda.types import SeenViews
from sfda.validators._base import Validator, ValidatorConfig


class SoftDice(Validator):
    """Mean over images of 2 sum p m / (sum p + sum m), in (0, 1]: the Dice that a model expects.

    p is the probability of a class in a pixel and m whether it is the answer. The paper has
    one class against the ground; of several it is the mean over those that the image's mask shows.

    It assumes calibrated probabilities, and so is blind to a sure collapse: only beside vetoes.
    Of segmentation.
    """

    idea = "the Dice that the probabilities let expect"
    networks: ClassVar[tuple[type[nn.Module], ...]] = (Segmenter,)
    tells_level: ClassVar[bool] = True

    def __init__(self, config: ValidatorConfig | None = None) -> None:
        super().__init__(config)
        self.total, self.count = 0.0, 0

    def update(self, seen: SeenViews) -> None:
        """Take in one batch of maps."""
        logits = seen.output.logits
        images, classes = logits.shape[:2]
        probs = rows_of(logits).double().softmax(1).view(images, -1, classes)
        masks = nn.functional.one_hot(probs.argmax(2), classes).double()
        shared, size = (probs * masks).sum(1), masks.sum(1)
        dice = 2 * shared / (probs.sum(1) + size)
        shown = size > 0
        self.total += float((torch.where(shown, dice, 0.0).sum(1) / shown.sum(1)).sum())
        self.count += images

    def compute(self) -> float:
        """The mean confidence."""
        if not self.count:
            raise ValueError("soft Dice of no masks")
        return self.total / self.count


EXPORT = SoftDice
