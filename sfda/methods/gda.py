"""GDA: a classifier's last layer in closed form, from Gaussians on features of the target (Wang et
al., "A hard-to-beat baseline for training-free CLIP-based adaptation", ICLR 2024,
arXiv:2402.04087).

Class means and one shrunk covariance, of labelled rows or of the rows that the source model is
surest of, then a round of expectation and maximisation over all rows. Nothing is learnt by
gradient. The paper has CLIP's features and labelled shots; rows without labels, the guard against
label shift (`own`) and the source's own features are of docs/methods/guided.md, section 6.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from pydantic import NonNegativeFloat, NonNegativeInt
from torch import Tensor, nn

from sfda.building_blocks.norm import norms, train_norms_
from sfda.errors import BadInput, listed
from sfda.methods._base import Learns, Method, MethodConfig, Rejection
from sfda.problems.classification.gaussian_head import (
    GaussianFit,
    effective_classes,
    fit_gaussians,
    fitted_head,
    starting_labels,
    unit_head_rows,
    with_head,
)
from sfda.problems.classification.network import Classifier
from sfda.refs import ModelSpec
from sfda.settings import Schedule
from sfda.types import UNSURE, Clock, Losses, Scan, Seen, TargetBatch, TargetInfo


class GdaConfig(MethodConfig):
    """Defaults: docs/methods/guided.md, section 6.2; one look, and nothing is trained."""

    schedule: Schedule = Schedule(epochs=1, drop_last=True)
    rows: Literal["auto", "labelled", "sure", "both"] = "auto"  # that Gaussians are made of: those
    # that a person has labelled, those that the source is surest of; auto: labelled, if there are
    own: bool = True  # a class begins with rows that are its own by the source's answer alone
    em: NonNegativeInt = 1  # rounds of expectation and maximisation over all rows
    labelled_weight: NonNegativeFloat = 10.0  # of a labelled row against another, where both count
    mixed: bool | Literal["auto"] = "auto"  # beside the source's logits; auto: with labels alone
    statistics: Literal["source", "target"] = "source"  # of batch norm; target: as bn, first


class Gda(Method):
    """A Gaussian head on resting features, for classification."""

    idea = "a last layer in closed form: Gaussians on the target's features, no gradient"
    Config = GdaConfig
    networks: ClassVar[tuple[type[nn.Module], ...]] = (Classifier,)
    setting: ClassVar[str] = "closed set, or a few labels"
    learns: ClassVar[Learns] = "statistics"
    labelled_rows: ClassVar[Literal["added", "own", "none"]] = "own"
    config: GdaConfig
    labels: Int[Tensor, " N"]

    def __init__(self, source: Classifier, target: TargetInfo, config: GdaConfig) -> None:
        super().__init__(source, target, config)
        labelled = target.labelled is not None and len(target.labelled) > 0
        wants = config.rows in ("labelled", "both")
        if wants and not labelled:
            raise BadInput(
                f"gda with rows={config.rows} needs labelled rows, and the target has none: ask "
                "for some with `sfda query`, or leave the setting out"
            )
        self.by_labels = wants or (config.rows == "auto" and labelled)
        self.by_source = not self.by_labels or config.rows == "both"
        self.mixed = self.by_labels if config.mixed == "auto" else config.mixed
        if config.statistics == "target" and not norms(self.student):
            raise BadInput("the network has no batch-norm statistics: leave out statistics=target")
        self.head = fitted_head(source, None, mixed=True).requires_grad_(False).eval()
        self.register_buffer("labels", torch.full((target.size,), UNSURE))
        self._says, self._scan = "", _nothing

    @classmethod
    def adapted_spec(cls, spec: ModelSpec) -> ModelSpec:
        """With the Gaussian head."""
        return spec.model_copy(update={"gaussian_head": True})

    def train(self, mode: bool = True) -> Self:
        """Batch norm alone works in train mode, and only where its statistics are renewed."""
        self.training = mode
        train_norms_(self.student, mode and self.config.statistics == "target")
        return self

    def sample(self, epoch: int) -> Int[Tensor, " R"] | None:
        """All rows for batch norm, else no more than bring every labelled row along."""
        if self.config.statistics == "target":
            return None
        size, known = self.config.schedule.batch_size, self.target.labelled
        count = len(known) if self.by_labels and known is not None else 1
        return torch.arange(min(self.target.size, max(2, -(-count // size) * size)))

    def start_epoch(self, scan: Scan, clock: Clock) -> None:
        """Every pass starts anew."""
        self._scan = scan
        if self.config.statistics == "target":
            for layer in norms(self.student):
                layer.reset_running_stats()
                layer.momentum = None  # the plain mean over all batches

    def losses(self, batch: TargetBatch, clock: Clock) -> Losses:
        """None; labels are taken down, and the forward pass may move statistics."""
        if self.by_labels and batch.labelled is not None:
            self.labels[batch.labelled.index] = batch.labelled.targets
        if self.config.statistics == "target":
            with torch.no_grad():
                self.student(batch.weak)
        return {}

    @torch.no_grad()
    def end_epoch(self, clock: Clock) -> Iterator[Losses]:
        """Look at all rows once, and fit."""
        seen = [(index, out.features, out.logits) for index, out in self._scan(self.student)]
        order = torch.cat([index for index, _, _ in seen]).argsort()
        features = F.normalize(torch.cat([f for _, f, _ in seen])[order].double(), dim=1)
        probs = torch.cat([logits for _, _, logits in seen])[order].double().softmax(1)
        self.head = fitted_head(self.student, self._fit(features, probs), mixed=self.mixed)
        self.head.requires_grad_(False).eval()
        return iter(())

    def _fit(
        self, features: Float[Tensor, "N D"], probs: Float[Tensor, "N C"]
    ) -> GaussianFit | None:
        """The Gaussians of the rows that the settings name; None where they make no two classes."""
        classes = probs.shape[1]
        known = self.labels >= 0
        own = F.one_hot(self.labels.clamp_min(0), classes).double() * known[:, None]
        prior = None if self.target.priors is None else self.target.priors.double().mean(0)
        more = {"prior": None if prior is None else prior.to(probs.device)}
        if not self.by_source:
            spare = unit_head_rows(self.student).to(probs.device)
            fit = fit_gaussians(features, own, spare_means=spare, **more)
            self._says = _report(fit, int(known.sum()), "labelled rows", self.target.classes)
            return fit if fit.active.sum() > 1 else None
        start = starting_labels(probs.masked_fill(known[:, None], 0.0), own=self.config.own)
        shares = F.one_hot(start.clamp_min(0), classes).double() * (start >= 0)[:, None]
        weight = self.config.labelled_weight
        first = fit = fit_gaussians(features, shares + weight * own, **more)
        rows = f"rows that the source is surest of, and {int(known.sum())} labelled"
        self._says = _report(first, int((start >= 0).sum()), rows, self.target.classes)
        if first.active.sum() < 2:
            return None
        for _ in range(self.config.em):
            shares = (fit.stretch * fit.scores(features)).softmax(1)
            fit = fit_gaussians(features, torch.where(known[:, None], weight * own, shares), **more)
        before = effective_classes(probs.argmax(1), classes)
        if effective_classes(fit.scores(features).argmax(1), classes) < before / 2:
            self._says += "; its last round put too much into few classes, so its first one counts"
            return first
        return fit

    def status(self) -> str:
        """What the Gaussians were made of."""
        return self._says

    def own_rejection(self) -> Rejection | None:
        """Clusters of entropies, where classes are declared that the source lacks."""
        return "auto" if self.target.regime in ("open", "open-partial") else None

    def parameter_groups(self, schedule: Schedule) -> list[dict[str, Any]]:
        """None: nothing is trained."""
        return []

    @property
    def adapted(self) -> nn.Module:
        """The student with the Gaussian head."""
        return with_head(self.student, self.head)


def _nothing(network: nn.Module, rows: Tensor | None = None) -> Iterator[Seen]:
    """The scan before there is one."""
    return iter(())


def _report(fit: GaussianFit, count: int, rows: str, names: Sequence[str] | None) -> str:
    """How many rows the Gaussians began with, and which classes they leave out."""
    off = (~fit.active).nonzero().flatten().tolist()
    if len(fit.active) - len(off) < 2:
        return f"{count} {rows} make no two classes: the model stays as it is"
    left = f"; no mean for {listed([names[c] if names else str(c) for c in off])}" if off else ""
    return f"Gaussians of {count} {rows}{left}"


EXPORT = Gda
