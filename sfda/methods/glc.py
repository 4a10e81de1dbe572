"""GLC: global and local clustering (Qu et al., CVPR 2023, arXiv:2303.07110).

One algorithm for closed, partial, open and open-partial targets. Every source class is set against
all other samples: a sample nearer to the class than to anything else carries its label, all others
are unknown and made as uncertain as can be. Neighbours in feature space then agree.

The authors estimate the number of the target's classes, which decides how many samples speak for a
class, and keep it; on small targets it is often told wrong, and the method then labels more and
more of them unknown. Ours takes as many as the source has unless told otherwise, renews the
statistics of batch norm first where unknown classes are declared, looks at the first labels and
stops where they are lost. The presets of the benchmarks are as published.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from sfda.building_blocks.bank import MemoryBank
from sfda.building_blocks.clustering import (
    k_means,
    one_vs_all,
    positives,
    split_in_two,
)
from sfda.building_blocks.losses import ENTROPY_EPS
from sfda.building_blocks.norm import alpha_statistics
from sfda.building_blocks.precision import full_precision
from sfda.building_blocks.rejection import uncertainty
from sfda.methods._base import Method, MethodConfig, Rejection
from sfda.methods._class_count import (
    COEFFICIENTS,
    FINER,
    SEED,
    best_coefficient,
    class_count_scores,
    coefficient_of_draws,
    scores_of_halves,
    words_on_count,
)
from sfda.problems.classification.network import Classifier, ClassOutput
from sfda.refs import Share
from sfda.settings import Schedule
from sfda.types import UNKNOWN, Clock, Losses, Scan, TargetBatch, TargetInfo

DOUBTFUL = 0.3  # share of unknown labels among the surer half of the target, from which they are
LOST = 0.5  # of the labels of known classes at first: with so many fewer nothing is learnt any more
THRESHOLD = 0.55  # omega, the authors'
MANY_CLASSES = 20  # from which their threshold fits
COLLAPSING = 0.9  # share of rejected samples from which next to nothing is answered
SOFT = 1e-4  # added to what a pseudo-target is divided by, as in the released code


class GlcConfig(MethodConfig):
    """Defaults: Office-31 in every setting, as in the paper."""

    schedule: Schedule = Schedule(lr=1e-3, epochs=50, drop_last=True)
    lr_scale: dict[str, float] = {"backbone": 0.1, "head": 0.0}
    global_weight: NonNegativeFloat = 0.3  # eta
    neighbours: PositiveInt = 4  # K of the local term
    suppression: Share = 0.75  # rho: the less, the more doubtful classes are held back
    threshold: Share | None = None  # omega: entropy, as a share of log C, above which a sample is
    # unknown; None: 0.55, or "auto" where unknown classes are declared beside fewer than 20
    coefficient: PositiveFloat | Literal["estimate", "paper"] = 1.0  # gamma, target classes per
    # source class: a number, our estimate, or the authors'
    statistics: Literal["target", "source"] | None = None  # of batch norm at the first look; None:
    # the target's where unknown classes are declared
    guards: bool = True  # look at the first labels, and stop where they are lost
    estimate_rows: PositiveInt = 20_000  # at most so many tell gamma; paper: a third of VisDA-C
    search: Literal["exact", "approximate"] = "exact"


class Glc(Method):
    """Global and local clustering for classification."""

    idea = (
        "one-vs-all clustering of the whole target, agreement of near neighbours, unknown "
        "samples made uncertain"
    )
    Config = GlcConfig
    networks: ClassVar[tuple[type[nn.Module], ...]] = (Classifier,)
    setting: ClassVar[str] = "universal"
    config: GlcConfig
    scores: Float[Tensor, " S"]
    gamma: Float[Tensor, ""]
    rejected: Float[Tensor, ""]
    votes: Float[Tensor, " S"]
    first_unknown: Float[Tensor, ""]
    surer_unknown: Float[Tensor, ""]
    stopped: Bool[Tensor, ""]
    labels: Int[Tensor, " N"]

    def __init__(self, source: Classifier, target: TargetInfo, config: GlcConfig) -> None:
        super().__init__(source, target, config)
        approximate = config.search == "approximate"
        self.bank = MemoryBank(
            target.size, source.feature_dim, source.num_classes, approximate=approximate
        )
        self.neighbours = min(config.neighbours, target.size - 1)
        self.grid = FINER if config.coefficient == "estimate" else COEFFICIENTS
        self.register_buffer("scores", torch.zeros(len(self.grid)))
        self.register_buffer("votes", torch.zeros(len(self.grid)))  # of the draws
        self.register_buffer("gamma", torch.tensor(1.0))
        self.register_buffer("rejected", torch.tensor(0.0))
        self.register_buffer("labels", torch.zeros(target.size, dtype=torch.long))
        self.register_buffer("first_unknown", torch.tensor(0.0))  # share of unknown labels at first
        self.register_buffer("surer_unknown", torch.tensor(0.0))  # the same in the surer half
        self.register_buffer("stopped", torch.tensor(False))

    @property
    def declared(self) -> bool:
        """Whether the target is said to hold classes that the source never saw."""
        return self.target.regime in ("open", "open-partial")

    def own_rejection(self) -> Rejection | None:
        """A threshold, unless the target is known to hold no unknown classes."""
        if not self.target.may_be_unknown:
            return None
        few = self.student.num_classes < MANY_CLASSES
        return self.config.threshold or ("auto" if self.declared and few else THRESHOLD)

    def start_epoch(self, scan: Scan, clock: Clock) -> None:
        """Fill the bank anew, then label every sample; before all, tell the number of classes."""
        statistics = self.config.statistics or ("target" if self.declared else "source")
        if clock.epoch == 0 and statistics == "target":
            alpha_statistics(self.student, scan, source_weight=0.0)
        for index, out in scan(self.student):
            self.bank.update(index, out.features, out.logits.softmax(1))
        self.bank.index_()
        self.rejected.fill_(share_rejected(self.bank.probs, self.rejection))
        if clock.epoch == 0:
            self._count_classes()
        labels = self._labels()
        if clock.epoch == 0:
            labels = self._look_at_first(labels)
        elif self.config.guards and 1 - share_unknown(labels) < LOST * (
            1 - float(self.first_unknown)
        ):
            self.stopped.fill_(True)
        if not self.stopped:
            self.labels.copy_(labels)

    def _count_classes(self) -> None:
        """Set gamma."""
        features, probs, coefficient = self.bank.features, self.bank.probs, self.config.coefficient
        rows = self.config.estimate_rows
        if coefficient == "paper":
            self.scores.copy_(class_count_scores(features, probs.shape[1], rows))
            self.gamma.fill_(best_coefficient(self.scores.tolist()))
        elif coefficient == "estimate":
            draws = scores_of_halves(features, probs.shape[1], rows)
            self.scores.copy_(draws.mean(0))
            self.votes.copy_(F.one_hot(draws.argmax(1), len(FINER)).sum(0))
            self.gamma.fill_(coefficient_of_draws(draws))
        else:
            self.gamma.fill_(coefficient)

    def _labels(self) -> Int[Tensor, " N"]:
        """Labels of the whole target as the bank is now."""
        return global_labels(
            self.bank.features,
            self.bank.probs,
            gamma=float(self.gamma),
            rho=self.config.suppression,
        )

    def _look_at_first(self, labels: Int[Tensor, " N"]) -> Int[Tensor, " N"]:
        """The first labels; those of as many classes as the source has where an estimate leaves too
        many of the surest samples unknown.
        """
        surer = self.bank.probs.amax(1).topk(max(1, len(labels) // 2)).indices
        estimated = isinstance(self.config.coefficient, str) and float(self.gamma) != 1
        if self.config.guards and estimated and share_unknown(labels[surer]) > DOUBTFUL:
            self.gamma.fill_(1.0)
            labels = self._labels()
        self.surer_unknown.fill_(share_unknown(labels[surer]))
        self.first_unknown.fill_(share_unknown(labels))
        return labels

    def _spares_unknown(self, clock: Clock) -> bool:
        """Whether nothing is learnt from unknown labels: those of the first epoch are doubtful."""
        return self.config.guards and clock.epoch == 0 and float(self.surer_unknown) > DOUBTFUL

    def status(self) -> str:
        """The shares of unknown labels and of rejected samples, what number of classes was told and
        by what, and warnings.
        """
        gamma, rejected = float(self.gamma), float(self.rejected)
        share = share_unknown(self.labels)
        parts = [f"{share:.0%} of the target labelled unknown (gamma {gamma:g})"]
        if self.rejection is not None:
            parts.append(f"{rejected:.0%} rejected")
        parts += words_on_count(
            self.config.coefficient, gamma, self.scores.tolist(), self.votes.tolist()
        )
        if self.config.guards and float(self.surer_unknown) > DOUBTFUL:
            parts.append(
                f"{float(self.surer_unknown):.0%} of the surer half began as unknown: this target "
                "looks closed, or the source is too weak for it"
            )
        if self.stopped:
            parts.append("too few labels of known classes are left: nothing more is learnt")
        elif rejected >= COLLAPSING:
            others = "" if gamma == 1 else ", or --set coefficient=1"
            parts.append(
                f"it will end with nearly every sample rejected; try --set reject=auto{others}"
            )
        return "; ".join(parts)

    def losses(self, batch: TargetBatch, clock: Clock) -> Losses:
        """Both terms. Neighbours are searched before the batch is written to the bank."""
        if self.stopped:
            return {}
        out: ClassOutput = self.student(batch.weak)
        probs = out.logits.softmax(1)
        # the first hit is dropped, as the authors do, though it need not be the sample itself
        near = self.bank.nearest(out.features, self.neighbours + 1)[:, 1:]
        labels = self.labels[batch.index]
        soft = soft_targets(labels, probs.shape[1])
        if self._spares_unknown(clock):
            soft = soft * (labels != UNKNOWN)[:, None]
        terms = {
            "global": self.config.global_weight * cross_entropy(probs, soft),
            "local": cross_entropy(probs, self.bank.probs[near].mean(1)),
        }
        self.bank.update(batch.index, out.features, probs)
        return terms


def share_unknown(labels: Int[Tensor, " N"]) -> float:
    """Share of these labels that are UNKNOWN; 0 of none."""
    return float((labels == UNKNOWN).double().mean()) if len(labels) else 0.0


def share_rejected(probs: Float[Tensor, "N C"], rejection: Rejection | None) -> float:
    """Share of samples that the network would answer "unknown", were it deployed as it is."""
    if rejection is None or not len(probs):
        return 0.0
    unsure = uncertainty(probs)
    threshold = split_in_two(unsure)[1] if rejection == "auto" else rejection
    return float((unsure > threshold).double().mean())


def group_sizes(size: int, classes: int, gamma: float) -> tuple[int, int]:
    """How many samples speak for a class (M), and how many prototypes speak against it (K).

    M = floor(N / (C gamma)) and K = floor(C gamma), each at least 1, and M small enough to leave
    K samples for the K prototypes; the authors' code fails there.

    >>> group_sizes(100, 4, 2.0), group_sizes(100, 3, 0.25), group_sizes(5, 3, 0.25)
    ((12, 8), (99, 1), (4, 1))
    """
    against = max(1, min(math.floor(classes * gamma), size - 1))
    return max(1, min(math.floor(size / (classes * gamma)), size - against)), against


def global_labels(
    features: Float[Tensor, "N D"], probs: Float[Tensor, "N C"], *, gamma: float, rho: float
) -> Int[Tensor, " N"]:
    """Pseudo-labels of the whole target from unit features, UNKNOWN among them.

    What speaks against a class are clusters of all samples that do not speak for it. The authors
    cluster once, with faiss and at most 256 K samples; we use all, and several starts.
    """
    size, classes = probs.shape
    count, against = group_sizes(size, classes, gamma)
    confident = positives(features, probs, count=count, rho=rho)

    def negatives(chosen: int) -> Float[Tensor, "K D"]:
        others = 1 - confident.members[:, chosen]
        return F.normalize(k_means(features, against, weights=others, seed=SEED), dim=1, eps=1e-12)

    return one_vs_all(features, confident, negatives)


def soft_targets(labels: Int[Tensor, " B"], classes: int) -> Float[Tensor, "B C"]:
    """One-hot / (1 + 1e-4), and 1 / (C + 1e-4) throughout where the label is UNKNOWN."""
    unknown = (labels == UNKNOWN)[:, None]
    one_hot = F.one_hot(labels.clamp_min(0), classes).float() / (1 + SOFT)
    return torch.where(unknown, 1 / (classes + SOFT), one_hot)


@full_precision
def cross_entropy(probs: Float[Tensor, "B C"], targets: Float[Tensor, "B C"]) -> Float[Tensor, ""]:
    """-(1/B) sum of targets ln(probs + 1e-5): at most 11.5 a sample, unlike with log-softmax."""
    return -(targets * (probs + ENTROPY_EPS).log()).sum(1).mean()


EXPORT = Glc
