"""Source only: adapt nothing, the floor of every comparison (protocol as in arXiv:2002.08546)."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

from sfda.methods._base import Learns, Method, MethodConfig
from sfda.settings import Schedule
from sfda.types import Clock, Losses, TargetBatch


class SourceConfig(MethodConfig):
    """One epoch, in which nothing happens."""

    schedule: Schedule = Schedule(epochs=1)


class Unadapted(Method):
    """The source model as it came, for every problem."""

    idea = "nothing is adapted: the floor of every comparison"
    Config = SourceConfig
    learns: ClassVar[Learns] = "nothing"
    labelled_rows: ClassVar[Literal["added", "own", "none"]] = "none"
    setting: ClassVar[str] = "any"
    config: SourceConfig

    def train(self, mode: bool = True) -> Self:
        """The network stays in eval mode, so that no statistic moves."""
        self.training = mode
        return self

    def losses(self, batch: TargetBatch, clock: Clock) -> Losses:
        """None."""
        return {}

    def parameter_groups(self, schedule: Schedule) -> list[dict[str, Any]]:
        """None: nothing is trained."""
        return []


EXPORT = Unadapted
