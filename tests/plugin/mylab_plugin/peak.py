"""Peak: how high the highest probability is, to a power."""

from __future__ import annotations

from typing import ClassVar

from pydantic import PositiveFloat
from torch import nn

from sfda.problems.classification.network import Classifier
from sfda.types import SeenViews
from sfda.validators._base import Validator, ValidatorConfig


class PeakConfig(ValidatorConfig):
    """The mean itself."""

    power: PositiveFloat = 1.0


class Peak(Validator):
    """Mean of max(p) ** power over the images, in (0, 1]."""

    Config = PeakConfig
    networks: ClassVar[tuple[type[nn.Module], ...]] = (Classifier,)
    config: PeakConfig

    def __init__(self, config: PeakConfig | None = None) -> None:
        super().__init__(config)
        self.total, self.count = 0.0, 0

    def update(self, seen: SeenViews) -> None:
        """Take in one batch with logits [B, C]."""
        top = seen.output.logits.double().softmax(1).amax(1)
        self.total += float((top**self.config.power).sum())
        self.count += len(top)

    def compute(self) -> float:
        """The mean."""
        if not self.count:
            raise ValueError("peak of no predictions")
        return self.total / self.count
