"""What AdaEnt and AdaMI share: entropy minimisation held by a prior on class ratios.

Certain pixels, and as much of every class as is known of it. They differ in the direction of the
divergence between known and predicted class ratios. Against the papers, ratios are estimated as in
the released code, and weak views may be mirrored; the authors augment nothing. Where a network sees
tiles of an image and no whole one, its ratios are compared as means over a batch: of one tile
nobody knows them. Padding never counts.
"""

from __future__ import annotations

import copy
from typing import ClassVar, Literal, Self

import torch
from pydantic import NonNegativeFloat
from torch import Tensor, nn

from sfda.building_blocks.class_ratios import (
    CollapseGuard,
    RatioPrior,
    class_ratios,
    inverse_sizes,
    ratio_divergence,
    weighted_entropy,
    weights_by_name,
)
from sfda.building_blocks.norm import alpha_statistics, train_norms_
from sfda.methods._base import Method, MethodConfig
from sfda.problems.segmentation.network import Segmenter, SegOutput
from sfda.settings import Schedule
from sfda.types import Clock, Losses, Scan, TargetBatch, TargetInfo


class RatioEntropyConfig(MethodConfig):
    """Weights, rate and decay of the released settings, which are the same for three organs.

    Their rate looks small; on the built-in scenes 1e-5 and above end worse than batch statistics
    alone, which train mode brings. Batch and epochs are ours, for targets of some hundred images.
    """

    schedule: Schedule = Schedule(
        optimizer="adam", lr=1e-6, weight_decay=1e-4, decay="steps", batch_size=8, epochs=20
    )
    ratios: dict[str, float] | None = None  # share of the image by class name, where known
    ratio_estimator: Literal["code", "mean"] = "code"  # the paper says mean
    # nu of the entropy: inverse to the prior's sizes, all 1, or given by class name
    class_weights: Literal["prior", "equal"] | dict[str, float] = "prior"
    entropy_weight: NonNegativeFloat = 1.0
    prior_weight: NonNegativeFloat = 1.0  # 0: entropy alone, which collapses


class RatioEntropy(Method):
    """Entropy minimisation held by a prior on class ratios. All parameters learn."""

    Config = RatioEntropyConfig
    networks: ClassVar[tuple[type[nn.Module], ...]] = (Segmenter,)
    setting: ClassVar[str] = "class ratios known"
    reverse: ClassVar[bool]  # KL(known || predicted) instead of KL(predicted || known)
    minimises: ClassVar[frozenset[str]] = frozenset({"entropy", "infomax"})
    config: RatioEntropyConfig

    def __init__(self, source: Segmenter, target: TargetInfo, config: RatioEntropyConfig) -> None:
        super().__init__(source, target, config)
        self.prior = RatioPrior(target, config.ratios, source.num_classes)
        self.given_weights: Tensor | None = None
        if isinstance(config.class_weights, dict):
            self.given_weights = weights_by_name(config.class_weights, target, source.num_classes)
        self.stopped = False
        good = copy.deepcopy(source).requires_grad_(False).eval()
        self.guard = CollapseGuard(self.student, good, source.num_classes)

    def start_epoch(self, scan: Scan, clock: Clock) -> None:
        """Estimate the prior where nobody knows it, from the source with target statistics."""
        self.stopped = bool(self.guard.collapsed)  # once an epoch: reading it waits for the device
        if clock.epoch == 0 and not self.prior.known:
            calibrated = copy.deepcopy(self.student)
            alpha_statistics(calibrated, scan, source_weight=0.9)
            self.prior.estimate_(scan(calibrated))

    def train(self, mode: bool = True) -> Self:
        """Batch norm alone works in train mode: dropout would disturb the entropies."""
        self.training = mode
        train_norms_(self.student, mode)
        return self

    def status(self) -> str:
        """Which prior is used, and whether the run was stopped."""
        if bool(self.guard.collapsed):
            return "the predicted class ratios collapsed: the last good epoch is kept, and no more"
        message = self.prior.status(self.target.classes)
        if self.config.prior_weight == 0:
            message += "; prior_weight is 0, and entropy alone collapses: do not trust this run"
        return message

    def losses(self, batch: TargetBatch, clock: Clock) -> Losses:
        """Entropy of the pixels, and the divergence of class ratios from the prior."""
        if self.stopped:
            return {}
        out: SegOutput = self.student(batch.weak)
        probs, c = out.logits.softmax(1), self.config
        predicted = class_ratios(probs, estimator=c.ratio_estimator, shown=batch.shown)
        prior = self.prior.of(batch.index)
        if not self.target.whole:
            area = torch.ones_like(predicted[:, 0])
            if batch.shown is not None:
                area = batch.shown.float().mean((1, 2))
            area = (area / area.sum()).unsqueeze(1)
            predicted, prior = ((r * area).sum(0, keepdim=True) for r in (predicted, prior))
        self.guard.watch(predicted)
        return {
            "entropy": c.entropy_weight * weighted_entropy(probs, self._weights(), batch.shown),
            "prior": c.prior_weight * ratio_divergence(predicted, prior, reverse=self.reverse),
        }

    def after_step(self, clock: Clock) -> None:
        """At the end of an epoch, see whether the ratios have collapsed."""
        if clock.ends_epoch and not self.stopped:
            self.guard.end_epoch(self.student, self.prior.mean())

    def _weights(self) -> Tensor:
        prior = self.prior.mean().clamp_min(1e-3)
        if self.given_weights is not None:
            return self.given_weights.to(prior.device)
        if self.config.class_weights == "equal":
            return torch.ones_like(prior)
        return inverse_sizes(prior)
