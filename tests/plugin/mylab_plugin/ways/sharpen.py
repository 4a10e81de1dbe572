"""Sharpen: a temperature above zero pulls every prediction to the class that it leans to.

Entropy minimisation with a marginal term, after Tent (arXiv:2006.10726) and SHOT's (2002.08546).
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import PositiveFloat
from torch import nn

from mylab_plugin.sums import entropy_of
from sfda.methods._base import Method, MethodConfig
from sfda.problems.classification.network import Classifier
from sfda.settings import Schedule
from sfda.types import Clock, Losses, TargetBatch


class SharpenConfig(MethodConfig):
    """The head rests: only what comes before it learns."""

    schedule: Schedule = Schedule(lr=1e-2)
    lr_scale: dict[str, float] = {"backbone": 0.1, "head": 0.0}
    temperature: PositiveFloat = 1.0


class Sharpen(Method):
    """Sure predictions that use all classes."""

    Config = SharpenConfig
    networks: ClassVar[tuple[type[nn.Module], ...]] = (Classifier,)
    minimises: ClassVar[frozenset[str]] = frozenset({"entropy", "infomax"})
    config: SharpenConfig

    def losses(self, batch: TargetBatch, clock: Clock) -> Losses:
        """Entropy of each prediction, less that of their mean."""
        logits = self.student(batch.weak).logits / self.config.temperature
        probs = logits.softmax(1)
        mean = probs.mean(0)
        spread = -torch.xlogy(mean, mean).sum()
        return {"sharp": entropy_of(probs).mean(), "spread": -spread}
