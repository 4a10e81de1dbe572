"""NRC: neighbourhood reciprocity clustering (Yang et al., NeurIPS 2021, arXiv:2110.04202).

A sample's prediction is pulled towards those of its neighbours in feature space: fully towards a
neighbour that counts the sample among its own, weakly towards the others and towards the
neighbours' neighbours. All classes stay in use. The bank starts from the test transform, where the
authors use the train transform in eval mode (docs/methods/classification.md, section 1.2).
"""

from __future__ import annotations

from typing import ClassVar, Literal

from jaxtyping import Bool, Float, Int
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor, nn

from sfda.building_blocks.bank import MemoryBank
from sfda.building_blocks.losses import diversity, neighbour_attraction
from sfda.methods._base import Method, MethodConfig
from sfda.problems.classification.network import Classifier, ClassOutput
from sfda.settings import Schedule
from sfda.types import Clock, Losses, Scan, TargetBatch, TargetInfo


class NrcConfig(MethodConfig):
    """Defaults: VisDA-C, as in the paper. Office-Home: K 3, later 5; M 2, later 4."""

    schedule: Schedule = Schedule(lr=1e-3, epochs=15)
    lr_scale: dict[str, float] = {"backbone": 0.1}
    neighbours: PositiveInt = 5  # K
    expanded: PositiveInt = 5  # M, neighbours of a neighbour
    late_neighbours: PositiveInt | None = None  # K in the second half of the run; None: as before
    late_expanded: PositiveInt | None = None  # M in the second half
    one_sided_weight: NonNegativeFloat = 0.1  # r, of neighbours that do not count the sample theirs
    expanded_weight: NonNegativeFloat = 0.1
    visda_alias: bool = False  # all neighbours weigh as expanded ones: a slip of the VisDA-C script
    search: Literal["exact", "approximate"] = "exact"


class Nrc(Method):
    """Neighbourhood reciprocity clustering for classification."""

    idea = "neighbours agree, the more if they are neighbours of each other"
    Config = NrcConfig
    networks: ClassVar[tuple[type[nn.Module], ...]] = (Classifier,)
    config: NrcConfig

    def __init__(self, source: Classifier, target: TargetInfo, config: NrcConfig) -> None:
        super().__init__(source, target, config)
        size, approximate = target.size, config.search == "approximate"
        self.bank = MemoryBank(
            size, source.feature_dim, source.num_classes, approximate=approximate
        )

    def start_epoch(self, scan: Scan, clock: Clock) -> None:
        """Fill the bank once, before the first step."""
        if clock.epoch == 0:
            for index, out in scan(self.student):
                self.bank.update(index, out.features, out.logits.softmax(1))
        self.bank.index_()

    def losses(self, batch: TargetBatch, clock: Clock) -> Losses:
        """The paper's objective without its self term: expanded lists may hold the sample itself.

        The batch is written to the bank before its neighbours are searched.
        """
        c = self.config
        out: ClassOutput = self.student(batch.weak)
        probs = out.logits.softmax(1)
        self.bank.update(batch.index, out.features, probs)
        near, further = self.neighbourhood(batch.index, out.features, clock)
        mutual = (further == batch.index[:, None, None]).any(2)
        return {
            "attract": self.attraction(probs, self.bank.probs[near], mutual),
            "expand": c.expanded_weight
            * neighbour_attraction(probs, self.bank.probs[further.flatten(1)]),
            "diversity": diversity(probs),
        }

    def neighbourhood(
        self, index: Int[Tensor, " B"], features: Float[Tensor, "B D"], clock: Clock
    ) -> tuple[Int[Tensor, "B K"], Int[Tensor, "B K M"]]:
        """Every sample's neighbours and theirs, each without the sample searched for."""
        k, m = self.sizes(clock)
        near = self.bank.neighbours(index, features, k)
        rows = near.flatten()
        further = self.bank.neighbours(rows, self.bank.features[rows], m)
        return near, further.unflatten(0, near.shape)

    def sizes(self, clock: Clock) -> tuple[int, int]:
        """K and M at this step, at most the number of other samples."""
        c, others = self.config, self.target.size - 1
        k, m = c.neighbours, c.expanded
        if clock.fraction >= 0.5:
            k, m = c.late_neighbours or k, c.late_expanded or m
        return min(k, others), min(m, others)

    def attraction(
        self,
        probs: Float[Tensor, "B C"],
        near: Float[Tensor, "B K C"],
        mutual: Bool[Tensor, "B K"],
    ) -> Float[Tensor, ""]:
        """Attraction by neighbours of weight 1 if mutual and r if not: r (all) + (1 - r) (mutual).

        A neighbour whose row is zero attracts nothing, which leaves the others out of the second.
        """
        c = self.config
        if c.visda_alias:
            return c.expanded_weight * neighbour_attraction(probs, near)
        r = c.one_sided_weight
        reciprocal = neighbour_attraction(probs, near * mutual[:, :, None])
        return r * neighbour_attraction(probs, near) + (1 - r) * reciprocal


EXPORT = Nrc
