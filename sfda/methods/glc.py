"""GLC: global and local clustering (Qu et al., CVPR 2023, arXiv:2303.07110).

One algorithm for closed, partial, open and open-partial targets. Every source class is set against
all other samples: a sample nearer to the class than to anything else carries its label, all others
are unknown and made as uncertain as can be. Neighbours in feature space then agree.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from sfda.building_blocks.bank import MemoryBank
from sfda.building_blocks.clustering import (
    k_means,
    map_to_plane,
    one_vs_all,
    positives,
    silhouettes,
    split_in_two,
)
from sfda.building_blocks.losses import ENTROPY_EPS
from sfda.building_blocks.precision import full_precision
from sfda.building_blocks.rejection import uncertainty
from sfda.methods._base import Method, MethodConfig, Rejection
from sfda.problems.classification.network import Classifier, ClassOutput
from sfda.refs import Share
from sfda.settings import Schedule
from sfda.types import UNKNOWN, Clock, Losses, Scan, TargetBatch, TargetInfo

COEFFICIENTS = (0.25, 0.5, 1.0, 2.0, 3.0)
SEED = 0  # of all clusterings: they are part of the method, not of a run's chance
COLLAPSING = 0.9  # share of rejected samples from which next to nothing is answered
NEARLY_AS_GOOD = (
    0.02  # of a silhouette: in the median, so far apart are those of two halves of one target
)
SOFT = 1e-4  # added to what a pseudo-target is divided by, as in the released code


class GlcConfig(MethodConfig):
    """Defaults: Office-31 in every setting, as in the paper."""

    schedule: Schedule = Schedule(lr=1e-3, epochs=50, drop_last=True)
    lr_scale: dict[str, float] = {"backbone": 0.1, "head": 0.0}
    global_weight: NonNegativeFloat = 0.3  # eta
    neighbours: PositiveInt = 4  # K of the local term
    suppression: Share = 0.75  # rho: the less, the more doubtful classes are held back
    threshold: Share = 0.55  # omega: entropy, as a share of log C, above which a sample is unknown
    coefficient: PositiveFloat | None = None  # gamma, classes of the target per source class
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
    labels: Int[Tensor, " N"]

    def __init__(self, source: Classifier, target: TargetInfo, config: GlcConfig) -> None:
        super().__init__(source, target, config)
        approximate = config.search == "approximate"
        self.bank = MemoryBank(
            target.size, source.feature_dim, source.num_classes, approximate=approximate
        )
        self.neighbours = min(config.neighbours, target.size - 1)
        self.register_buffer("scores", torch.zeros(len(COEFFICIENTS)))
        self.register_buffer("gamma", torch.tensor(1.0))
        self.register_buffer("rejected", torch.tensor(0.0))
        self.register_buffer("labels", torch.zeros(target.size, dtype=torch.long))

    def own_rejection(self) -> Rejection | None:
        """A fixed threshold, unless the target is known to hold no unknown classes."""
        return self.config.threshold if self.target.may_be_unknown else None

    def start_epoch(self, scan: Scan, clock: Clock) -> None:
        """Fill the bank anew, then label every sample; before all, tell the number of classes."""
        for index, out in scan(self.student):
            self.bank.update(index, out.features, out.logits.softmax(1))
        self.bank.index_()
        features, probs = self.bank.features, self.bank.probs
        self.rejected.fill_(share_rejected(probs, self.rejection))
        if clock.epoch == 0 and self.config.coefficient is None:
            self.scores.copy_(
                class_count_scores(features, probs.shape[1], self.config.estimate_rows)
            )
            self.gamma.fill_(best_coefficient(self.scores.tolist()))
        gamma = self.config.coefficient or float(self.gamma)
        rho = self.config.suppression
        self.labels.copy_(global_labels(features, probs, gamma=gamma, rho=rho))

    def status(self) -> str:
        """The shares of unknown labels and of rejected samples, with a warning where nearly all are
        rejected, and what number of classes is nearly as likely.
        """
        share = float((self.labels == UNKNOWN).float().mean())
        gamma, rejected = self.config.coefficient or float(self.gamma), float(self.rejected)
        parts = [f"{share:.0%} of the target labelled unknown (gamma {gamma:g})"]
        if self.rejection is not None:
            parts.append(f"{rejected:.0%} rejected")
        if self.config.coefficient is None and (others := rivals(self.scores.tolist(), gamma)):
            listed = " and ".join(f"{other:g}" for other in others)
            parts.append(
                f"gamma {listed} fits nearly as well: --set coefficient={others[0]:g} takes that"
            )
        if rejected >= COLLAPSING:
            parts.append(
                "it will end with nearly every sample rejected; try --set reject=auto, or "
                "--set coefficient=1"
            )
        return "; ".join(parts)

    def losses(self, batch: TargetBatch, clock: Clock) -> Losses:
        """Both terms. Neighbours are searched before the batch is written to the bank."""
        out: ClassOutput = self.student(batch.weak)
        probs = out.logits.softmax(1)
        # the first hit is dropped, as the authors do, though it need not be the sample itself
        near = self.bank.nearest(out.features, self.neighbours + 1)[:, 1:]
        soft = soft_targets(self.labels[batch.index], probs.shape[1])
        terms = {
            "global": self.config.global_weight * cross_entropy(probs, soft),
            "local": cross_entropy(probs, self.bank.probs[near].mean(1)),
        }
        self.bank.update(batch.index, out.features, probs)
        return terms


def class_count_scores(
    features: Float[Tensor, "N D"], classes: int, rows: int
) -> Float[Tensor, " S"]:
    """How well as many clusters as each coefficient asks for fit the features: silhouettes.

    Computed on a plane (t-SNE) and on at most `rows` samples, drawn at random. Depends on the
    features and on scikit-learn's release, see `map_to_plane`.
    """
    if len(features) > rows:
        drawn = torch.randperm(len(features), generator=torch.Generator().manual_seed(SEED))[:rows]
        features = features[drawn.to(features.device)]
    counts = [max(2, math.floor(coefficient * classes)) for coefficient in COEFFICIENTS]
    return silhouettes(map_to_plane(features, seed=SEED), counts, seed=SEED)


def best_coefficient(scores: list[float]) -> float:
    """The first coefficient with the largest score, or 1 where no score is above 0.

    >>> best_coefficient([0.1, 0.4, 0.4, 0.2, 0.0]), best_coefficient([0.0, 0.0, -0.1, 0.0, 0.0])
    (0.5, 1.0)
    """
    best = max(scores)
    return COEFFICIENTS[scores.index(best)] if best > 0 else 1.0


def rivals(scores: list[float], gamma: float) -> list[float]:
    """Other coefficients whose score is within 0.02 of that of the chosen one, the best first;
    none where no number of classes fits at all.

    >>> rivals([0.1, 0.40, 0.41, 0.2, 0.0], 1.0), rivals([0.0] * 5, 1.0)
    ([0.5], [])
    """
    best = scores[COEFFICIENTS.index(gamma)] if gamma in COEFFICIENTS else 0.0
    if best <= 0:
        return []
    near = [
        (score, other)
        for score, other in zip(scores, COEFFICIENTS, strict=True)
        if other != gamma and best - score <= NEARLY_AS_GOOD
    ]
    return [other for _, other in sorted(near, reverse=True)]


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
