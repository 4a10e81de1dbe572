"""ViLAaD: neighbours agree, in the model's eyes and in a guide's (after arXiv:2503.23529, on top of
AaD, arXiv:2205.04183).

No code of the paper is known, and its formula was not read: this is the product's own version of
its idea, so our numbers are not the paper's. Beside AaD's attraction the predictions are drawn to
what the guide says of the neighbours, and of the image itself (docs/methods/guided.md, section 3).
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from pydantic import NonNegativeFloat
from torch import Tensor

from sfda.building_blocks.losses import batch_agreement, dispersion, neighbour_attraction
from sfda.building_blocks.precision import full_precision
from sfda.errors import BadInput
from sfda.methods._neighbours import NeighbourConfig, NeighbourMethod
from sfda.problems.classification.network import Classifier, ClassOutput
from sfda.types import Clock, Losses, Scan, TargetBatch, TargetInfo


class ViLAaDConfig(NeighbourConfig):
    """AaD's, and the guide's terms."""

    pull_model: NonNegativeFloat = 1.0  # weight of what the model says of neighbours
    pull_guide: NonNegativeFloat = 1.0  # of what the guide says of them
    push_guide: NonNegativeFloat = 0.0  # share of dispersion that is from the guide's answers
    self_guide: bool = True  # the guide also speaks of the image itself
    normalise: bool = True  # both pulls together weigh as AaD's one
    start: Literal["source", "guide"] = "source"  # whose answers the bank begins with


class ViLAaD(NeighbourMethod):
    """AaD with a guide, for classification."""

    idea = "as aad; what a guide says of the neighbours attracts, too"
    Config = ViLAaDConfig
    setting: ClassVar[str] = "with a guide"
    needs_guide: ClassVar[frozenset[str]] = frozenset({"logits"})
    config: ViLAaDConfig

    def __init__(self, source: Classifier, target: TargetInfo, config: ViLAaDConfig) -> None:
        super().__init__(source, target, config)
        if not config.pull_model + config.pull_guide:
            raise BadInput("pull_model and pull_guide are both 0: state one of them above 0")
        assert target.guide is not None
        self.guide = target.guide
        self.guide_probs = target.guide.logits.float().softmax(1)

    def start_epoch(self, scan: Scan, clock: Clock) -> None:
        """Fill the bank once, with the guide's answers where these begin."""
        super().start_epoch(scan, clock)
        if clock.epoch == 0 and self.config.start == "guide":
            answered = self.guide.answered
            self.bank.probs[answered] = self.guide_probs[answered]

    def losses(self, batch: TargetBatch, clock: Clock) -> Losses:
        """AaD's two terms, and the guide's; the batch is written to the bank first."""
        c = self.config
        out: ClassOutput = self.student(batch.weak)
        probs = out.logits.softmax(1)
        self.bank.update(batch.index, out.features, probs)
        near = self.bank.neighbours(batch.index, out.features, self.neighbours(clock))
        total = c.pull_model + c.pull_guide if c.normalise else 1.0
        weight = c.push * dispersion(clock, fade=c.fade, batch_size=c.schedule.batch_size)
        terms = {
            "attract": c.pull_model / total * neighbour_attraction(probs, self.bank.probs[near]),
            "disperse": weight * batch_agreement(probs),
        }
        if c.pull_guide:
            rows = torch.cat([near, batch.index[:, None]], 1) if c.self_guide else near
            pull = answered_attraction(probs, self.guide_probs[rows], self.guide.answered[rows])
            terms["guide"] = c.pull_guide / total * pull
        if c.push_guide:
            push = guide_agreement(
                probs, self.guide_probs[batch.index], self.guide.answered[batch.index]
            )
            terms["guide_disperse"] = weight * c.push_guide * push
        return terms

    def status(self) -> str:
        """How sure the guide is."""
        sure = float(self.guide_probs.amax(1).mean())
        origin = "; its answers are derived from the source's" if self.guide.derived else ""
        return f"the guide's mean confidence is {sure:.2f}{origin}"


@full_precision
def answered_attraction(
    probs: Float[Tensor, "B C"],
    near: Float[Tensor, "B K C"],
    answered: Bool[Tensor, "B K"],
) -> Float[Tensor, ""]:
    """AaD's attraction to the answers of neighbours, of those that have one: per sample the sum
    over its neighbours of sum_c q (log q - p).
    """
    each = (torch.xlogy(near, near) - near * probs[:, None]).sum(2)
    return (each * answered).sum(1).mean()


@full_precision
def guide_agreement(
    probs: Float[Tensor, "B C"], spoken: Float[Tensor, "B C"], answered: Bool[Tensor, " B"]
) -> Float[Tensor, ""]:
    """Dot products with the guide's answers for all other samples of the batch, per sample."""
    products = probs @ (spoken * answered[:, None]).T
    return (products.sum() - products.diagonal().sum()) / len(probs)


EXPORT = ViLAaD
