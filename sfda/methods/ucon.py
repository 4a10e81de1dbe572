"""UCon: attraction and dispersion under uncertainty control (UCon-SFDA, ICLR 2025), on top of AaD
(arXiv:2205.04183).

AaD, and two terms beside it. What augmentation changes in a prediction is noise that dispersion
must not amplify, so the strong view is taught the weak view's softened answer. And a sample whose
best classes are close is taught a set of candidate classes, which only grows. As for AaD the bank
starts from the test transform, where the authors use the train transform in eval mode
(docs/methods/guided.md, section 4).
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext
from typing import Annotated, ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from pydantic import Field, NonNegativeFloat
from torch import Tensor

from sfda.building_blocks.losses import batch_agreement, dispersion, neighbour_attraction
from sfda.building_blocks.norm import keep_statistics
from sfda.building_blocks.precision import full_precision
from sfda.methods._neighbours import NeighbourConfig, NeighbourMethod
from sfda.problems.classification.network import Classifier, ClassOutput
from sfda.types import Clock, Losses, Scan, SeenViews, TargetBatch, TargetInfo

CLOSE = 0.1  # by which the second class lies below the best where both are candidates
SPREAD = 0.1  # of the taught answers, spread over all classes
LEAST_PUSH = 5e-6  # of the weight of dispersion
FEW_CLASSES = 10  # below which the rule of uncertainty by class count calls everything uncertain
UNCERTAIN_SHARE = 0.1  # of the target, by the percentile

Ratio = Annotated[float, Field(ge=1)]


class UConConfig(NeighbourConfig):
    """Defaults: the paper's "auto" variant, with the neighbours and the fading of VisDA-C."""

    control: NonNegativeFloat | Literal["auto"] = "auto"  # lambda_dc, weight of the strong view's
    # term; auto: the share of samples that augmentation moves to another class, else 1
    control_temperature: Annotated[float, Field(gt=0)] = 1.0  # T_dc, of the answer it is taught
    partial: NonNegativeFloat = 0.05  # lambda_pl, weight of candidate classes
    candidates: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"  # k, at most C - 1; auto: 2
    # where they are close, else 1
    uncertain: Ratio | Literal["auto", "cal", "stat"] = "auto"  # which samples: best / second below
    # this; stat: below its 10th percentile; cal: by the number of classes; auto: cal from 10 on
    forget: bool = False  # sets and flags begin anew at every epoch; published: they only grow
    statistics: Literal["both", "weak"] = "both"  # views that move batch norm's running statistics


class UCon(NeighbourMethod):
    """AaD with dispersion control and partial labels, for classification."""

    idea = "as aad; noise of augmentation is held back, close classes are taught as sets"
    Config = UConConfig
    views: ClassVar[Literal["none", "photometric", "geometric"]] = "geometric"
    config: UConConfig
    sets: Bool[Tensor, "N C"]
    uncertain: Bool[Tensor, " N"]
    ratio: Float[Tensor, ""]
    control: Float[Tensor, ""]

    def __init__(self, source: Classifier, target: TargetInfo, config: UConConfig) -> None:
        super().__init__(source, target, config)
        size, classes = target.size, source.num_classes
        self.register_buffer("sets", torch.zeros(size, classes, dtype=torch.bool))
        self.register_buffer("uncertain", torch.zeros(size, dtype=torch.bool))
        rule, weight = config.uncertain, config.control
        if rule == "auto":
            rule = "cal" if classes >= FEW_CLASSES else "stat"
        self.by_classes = rule == "cal"
        self.by_percentile = rule == "stat"
        self.register_buffer("ratio", torch.tensor(1.0 if isinstance(rule, str) else rule))
        self.register_buffer("control", torch.tensor(1.0 if weight == "auto" else weight))

    def start_epoch(self, scan: Scan, clock: Clock) -> None:
        """Fill the banks once, before the first step, and measure what is measured."""
        super().start_epoch(scan, clock)
        if clock.epoch == 0 or self.config.forget:
            self.sets.zero_()
            self.uncertain.zero_()
        if clock.epoch == 0:
            probs = self.bank.probs
            if self.by_percentile:
                self.ratio.fill_(torch.quantile(best_to_second(probs), UNCERTAIN_SHARE))
            if self.config.control == "auto" and self.pairs is not None:
                self.control.fill_(share_moved(self.pairs(self.student)))
            self._mark(torch.arange(len(probs), device=probs.device), probs)

    def _mark(self, rows: Tensor, probs: Float[Tensor, "B C"]) -> None:
        """Add candidate classes and flags of these rows."""
        most = max(1, probs.shape[1] - 1)
        count = self.config.candidates
        chosen = count if count == "auto" else min(count, most)
        sets = candidate_sets(probs, chosen if most > 1 else 1)
        self.sets[rows] |= sets
        flags = uncertain_by_classes(probs) if self.by_classes else None
        self.uncertain[rows] |= best_to_second(probs) < self.ratio if flags is None else flags

    def losses(self, batch: TargetBatch, clock: Clock) -> Losses:
        """All four terms; sets and bank are written before they are read."""
        if len(batch.index) < 2:
            return {}
        out: ClassOutput = self.student(batch.weak)
        spared = self.config.statistics == "weak"
        with keep_statistics(self.student) if spared else nullcontext():
            strong: ClassOutput = self.student(batch.strong)
        probs = out.logits.softmax(1)
        self._mark(batch.index, probs.detach())
        self.bank.update(batch.index, out.features, probs)
        near = self.bank.neighbours(batch.index, out.features, self.neighbours(clock))
        terms = {
            "attract": neighbour_attraction(probs, self.bank.probs[near]),
            "disperse": self.push(clock) * batch_agreement(probs),
            "control": self.control
            * control_loss(out.logits, strong.logits, self.config.control_temperature),
        }
        if self.uncertain[batch.index].any():
            chosen = self.uncertain[batch.index]
            sets = self.sets[batch.index]
            terms["partial"] = self.config.partial * partial_loss(probs[chosen], sets[chosen])
        return terms

    def push(self, clock: Clock) -> float:
        """The weight of dispersion: AaD's, but counted from step 1, and never quite 0."""
        after = Clock(clock.step + 1, clock.steps_per_epoch, clock.epochs)
        size = self.config.schedule.batch_size
        faded = dispersion(after, fade=self.config.fade, batch_size=size)
        return max(LEAST_PUSH, self.config.push * faded)

    def status(self) -> str:
        """How many samples are taught a set, and how large sets are."""
        if not self.uncertain.any():
            return "no sample is uncertain"
        sizes = self.sets[self.uncertain].sum(1).double().mean()
        return (
            f"{float(self.uncertain.double().mean()):.0%} of the target are uncertain, between "
            f"{float(sizes):.1f} classes on average; control {float(self.control):.2f}"
        )


def best_to_second(probs: Float[Tensor, "B C"]) -> Float[Tensor, " B"]:
    """The largest probability over the second one."""
    best = probs.topk(2, dim=1).values
    return best[:, 0] / best[:, 1].clamp_min(torch.finfo(best.dtype).tiny)


def uncertain_by_classes(probs: Float[Tensor, "B C"]) -> Bool[Tensor, " B"]:
    """Whether the best is below 2 / C, or less than 1 / C above the second."""
    best, classes = probs.topk(2, dim=1).values, probs.shape[1]
    return (best[:, 0] < 2 / classes) | (best[:, 0] - best[:, 1] < 1 / classes)


def candidate_sets(
    probs: Float[Tensor, "B C"], count: int | Literal["auto"]
) -> Bool[Tensor, "B C"]:
    """The `count` most probable classes of each row; auto: two where the second lies less than 0.1
    below the best, else one. Of equals those that the authors' code takes.
    """
    if count != "auto":
        classes = probs.topk(count, dim=1).indices
        return torch.zeros_like(probs, dtype=torch.bool).scatter(1, classes, True)
    best, classes = probs.sort(dim=1, descending=True, stable=True)
    close = best[:, :1] - best[:, 1:2] < CLOSE
    members = torch.cat([torch.ones_like(close), close], 1)
    return torch.zeros_like(probs, dtype=torch.bool).scatter(1, classes[:, :2], members)


@full_precision
def control_loss(
    weak: Float[Tensor, "B C"], strong: Float[Tensor, "B C"], temperature: float
) -> Float[Tensor, ""]:
    """Cross-entropy of the strong view to the weak view's softened answer, which takes no gradient.

    The published logarithm of a softmax is taken as one, which is the same where it is finite.
    """
    taught = (weak.detach() / temperature).softmax(1)
    taught = (1 - SPREAD) * taught + SPREAD / weak.shape[1]
    return -(taught * strong.log_softmax(1)).sum(1).mean()


@full_precision
def partial_loss(
    probs: Float[Tensor, "U C"], sets: Bool[Tensor, "U C"], smoothing: float = SPREAD
) -> Float[Tensor, ""]:
    """Cross-entropy to the candidate classes alike, smoothed over all; finite also for full sets,
    where the published second term of weight 0 is not.
    """
    taught = (1 - smoothing) * sets.to(probs.dtype) + smoothing / probs.shape[1]
    taught = taught / taught.sum(1, keepdim=True)
    return -(taught * (probs + 1e-8).log()).sum(1).mean()


def share_moved(pairs: Iterable[SeenViews]) -> float:
    """Share of samples whose most probable class differs between the weak and the strong view."""
    moved, count = 0, 0
    for seen in pairs:
        weak, strong = seen.weak.logits.argmax(1), seen.strong.logits.argmax(1)
        moved += int((weak != strong).sum())
        count += len(weak)
    return moved / max(1, count)


EXPORT = UCon
