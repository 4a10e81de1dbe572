"""Linear probing, then fine-tuning, on a few labelled target images (arXiv:2304.00792, LP-FT)."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

from torch import nn

from sfda.methods._few_shot import FewShot, ProbedConfig
from sfda.settings import Schedule
from sfda.types import TargetInfo


class ProbingThenTuning(FewShot):
    """First the head alone on resting features, then all layers with an optimiser of its own."""

    idea = "the head alone, then all layers, on labelled rows alone"
    Config = ProbedConfig
    brief: ClassVar[Mapping[str, Any]] = MappingProxyType({"head_epochs": 1})
    config: ProbedConfig

    def __init__(self, source: nn.Module, target: TargetInfo, config: ProbedConfig) -> None:
        super().__init__(source, target, config)
        self._choose("head")

    def phase(self, epoch: int) -> int:
        """0 while the head is probed, then 1."""
        return int(epoch >= self.config.head_epochs)

    def enter_phase(self, phase: int) -> None:
        """Let the head learn, or what `train` names."""
        self._choose(self.config.train if phase else "head")

    def parameter_groups(self, schedule: Schedule) -> list[dict[str, Any]]:
        """The head's own rate while it is probed."""
        groups = super().parameter_groups(schedule)
        if self.mode == "head":
            for group in groups:
                group["scale"] *= self.config.head_lr / schedule.lr
        return groups


EXPORT = ProbingThenTuning
