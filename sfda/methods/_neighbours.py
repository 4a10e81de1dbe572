"""What AaD and its successors share: a bank of features and predictions, and whom it makes near."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import NonNegativeFloat, PositiveInt
from torch import nn

from sfda.building_blocks.bank import MemoryBank
from sfda.methods._base import Method, MethodConfig
from sfda.problems.classification.network import Classifier
from sfda.settings import Schedule
from sfda.types import Clock, Scan, TargetInfo


class NeighbourConfig(MethodConfig):
    """Defaults: VisDA-C, as in the paper."""

    schedule: Schedule = Schedule(lr=1e-3)
    lr_scale: dict[str, float] = {"backbone": 0.1}
    neighbours: PositiveInt = 5  # K
    late_neighbours: PositiveInt | None = None  # K in the second half of the run; None: as before
    push: NonNegativeFloat = 1.0  # alpha, tied to batches of 64: see `dispersion`
    fade: NonNegativeFloat = 5.0  # beta, how fast the push decays
    search: Literal["exact", "approximate"] = "exact"


class NeighbourMethod(Method):
    """A method over neighbours in feature space, for classification."""

    networks: ClassVar[tuple[type[nn.Module], ...]] = (Classifier,)
    config: NeighbourConfig

    def __init__(self, source: Classifier, target: TargetInfo, config: NeighbourConfig) -> None:
        super().__init__(source, target, config)
        approximate = config.search == "approximate"
        self.bank = MemoryBank(
            target.size, source.feature_dim, source.num_classes, approximate=approximate
        )

    def neighbours(self, clock: Clock) -> int:
        """K at this step, at most the number of other samples."""
        late = self.config.late_neighbours if clock.fraction >= 0.5 else None
        return min(late or self.config.neighbours, self.target.size - 1)

    def start_epoch(self, scan: Scan, clock: Clock) -> None:
        """Fill the bank once, before the first step."""
        if clock.epoch == 0:
            for index, out in scan(self.student):
                self.bank.update(index, out.features, out.logits.softmax(1))
        self.bank.index_()
