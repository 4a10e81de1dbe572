"""Supervised training, of a source model and of the bound that target labels would allow.

It is the same loop as adaptation: labels travel in `TargetBatch.labelled`, which no method for
unlabelled targets ever gets.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from sfda.methods._base import Method, MethodConfig
from sfda.problems.registry import problem_of
from sfda.settings import Schedule
from sfda.types import Clock, Losses, TargetBatch

BOUND = "supervised"  # in comparisons: the source network trained on the target's labels


class SupervisedConfig(MethodConfig):
    """SHOT's source recipe (arXiv:2002.08546, section 4.1): smoothing 0.1, backbone slower."""

    schedule: Schedule = Schedule(lr=1e-2, epochs=30)
    lr_scale: dict[str, float] = {"backbone": 0.1}
    smoothing: float = Field(0.1, ge=0, lt=1)
    append: bool = False  # detection: the true boxes join the proposals


class Supervised(Method):
    """Cross-entropy on labelled images; of detectors their own losses on labelled boxes."""

    Config = SupervisedConfig
    labelled_rows: ClassVar[Literal["added", "own", "none"]] = "own"
    config: SupervisedConfig

    def losses(self, batch: TargetBatch, clock: Clock) -> Losses:
        """The problem's supervised loss."""
        if batch.labelled is None:
            raise ValueError("supervised training needs labelled batches")
        losses: Losses = problem_of(self.student).loss(
            self.student,
            batch.labelled.images,
            batch.labelled.targets,
            smoothing=self.config.smoothing,
            **({"append": True} if self.config.append else {}),
        )
        return losses
