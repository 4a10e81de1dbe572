"""AaD: attracting and dispersing (Yang et al., NeurIPS 2022, arXiv:2205.04183).

Predictions of neighbours in feature space are pulled together, those of the rest of the batch
pushed apart; the push fades as training goes on. The bank starts from the test transform, where
the authors use the train transform in eval mode (docs/methods/classification.md, section 1.2).
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import NonNegativeFloat, PositiveInt
from torch import nn

from sfda.building_blocks.bank import MemoryBank
from sfda.building_blocks.losses import batch_agreement, dispersion, neighbour_attraction
from sfda.methods._base import Method, MethodConfig
from sfda.problems.classification.network import Classifier, ClassOutput
from sfda.settings import Schedule
from sfda.types import Clock, Losses, Scan, TargetBatch, TargetInfo


class AaDConfig(MethodConfig):
    """Defaults: VisDA-C, as in the paper."""

    schedule: Schedule = Schedule(lr=1e-3)
    lr_scale: dict[str, float] = {"backbone": 0.1}
    neighbours: PositiveInt = 5  # K
    late_neighbours: PositiveInt | None = None  # K in the second half of the run; None: as before
    push: NonNegativeFloat = 1.0  # alpha, tied to batches of 64: see `dispersion`
    fade: NonNegativeFloat = 5.0  # beta, how fast the push decays
    search: Literal["exact", "approximate"] = "exact"


class AaD(Method):
    """Attracting and dispersing for classification."""

    idea = "neighbours in feature space agree, the rest of the batch is pushed apart"
    Config = AaDConfig
    networks: ClassVar[tuple[type[nn.Module], ...]] = (Classifier,)
    config: AaDConfig

    def __init__(self, source: Classifier, target: TargetInfo, config: AaDConfig) -> None:
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

    def losses(self, batch: TargetBatch, clock: Clock) -> Losses:
        """Paper eq. 5; the batch is written to the bank before its neighbours are searched."""
        out: ClassOutput = self.student(batch.weak)
        probs = out.logits.softmax(1)
        self.bank.update(batch.index, out.features, probs)
        near = self.bank.neighbours(batch.index, out.features, self.neighbours(clock))
        weight = self.config.push * dispersion(
            clock, fade=self.config.fade, batch_size=self.config.schedule.batch_size
        )
        return {
            "attract": neighbour_attraction(probs, self.bank.probs[near]),
            "disperse": weight * batch_agreement(probs),
        }


EXPORT = AaD
