"""AaD: attracting and dispersing (Yang et al., NeurIPS 2022, arXiv:2205.04183).

Predictions of neighbours in feature space are pulled together, those of the rest of the batch
pushed apart; the push fades as training goes on. The bank starts from the test transform, where
the authors use the train transform in eval mode (docs/methods/classification.md, section 1.2).
"""

from __future__ import annotations

from sfda.building_blocks.losses import batch_agreement, dispersion, neighbour_attraction
from sfda.methods._neighbours import NeighbourConfig, NeighbourMethod
from sfda.problems.classification.network import ClassOutput
from sfda.types import Clock, Losses, TargetBatch


class AaDConfig(NeighbourConfig):
    """Defaults: VisDA-C, as in the paper."""


class AaD(NeighbourMethod):
    """Attracting and dispersing for classification."""

    idea = "neighbours in feature space agree, the rest of the batch is pushed apart"
    Config = AaDConfig
    config: AaDConfig

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
