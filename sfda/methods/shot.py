"""SHOT: source hypothesis transfer (Liang et al., ICML 2020, arXiv:2002.08546).

The classifier is frozen; features are moved until they fit it: certain predictions, all classes in
use, and agreement with pseudo-labels from class centroids of the target itself.
"""

from __future__ import annotations

from typing import ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from pydantic import NonNegativeFloat, NonNegativeInt
from torch import Tensor, nn

from sfda.building_blocks.clustering import split_in_two
from sfda.building_blocks.losses import diversity, entropy
from sfda.building_blocks.precision import full_precision
from sfda.building_blocks.rejection import uncertainty
from sfda.methods._base import Method, MethodConfig, Rejection
from sfda.problems.classification.network import Classifier, ClassOutput
from sfda.settings import Schedule
from sfda.types import UNKNOWN, Clock, Losses, Scan, TargetBatch, TargetInfo


class ShotConfig(MethodConfig):
    """Defaults: Office-31 and Office-Home, closed set (paper, section 4.1).

    `regime` None takes what the target's list of classes declares, closed without such a list.
    """

    schedule: Schedule = Schedule(lr=1e-2, epochs=15)
    lr_scale: dict[str, float] = {"backbone": 0.1, "head": 0.0}
    pseudo_weight: NonNegativeFloat = 0.3  # beta; 0 gives SHOT-IM
    regime: Literal["closed", "partial", "open"] | None = None
    diversity: bool | None = None  # None: off for partial targets
    min_count: NonNegativeInt | None = None  # tau; None: 10 for partial targets, else 0
    first_epoch_pseudo: bool = True  # off on VisDA-C: the first epoch minimises information alone


class Shot(Method):
    """Information maximisation and centroid pseudo-labels for classification."""

    idea = (
        "certain and diverse predictions, and pseudo-labels from class centroids; frozen classifier"
    )
    Config = ShotConfig
    networks: ClassVar[tuple[type[nn.Module], ...]] = (Classifier,)
    setting: ClassVar[str] = "closed, partial, open"
    minimises: ClassVar[frozenset[str]] = frozenset({"entropy", "infomax", "nuclear_norm"})
    config: ShotConfig
    labels: Int[Tensor, " N"]

    def __init__(self, source: Classifier, target: TargetInfo, config: ShotConfig) -> None:
        super().__init__(source, target, config)
        declared = {"partial": "partial", "open": "open", "open-partial": "open"}
        self.regime = config.regime or declared.get(target.regime or "", "closed")
        partial = self.regime == "partial"
        self.diverse = not partial if config.diversity is None else config.diversity
        self.min_count = (10 if partial else 0) if config.min_count is None else config.min_count
        self.register_buffer("labels", torch.zeros(target.size, dtype=torch.long))

    def own_rejection(self) -> Rejection | None:
        """Two clusters of entropies for open targets."""
        return "auto" if self.regime == "open" else None

    def train(self, mode: bool = True) -> Self:
        """The frozen classifier stays in eval mode."""
        super().train(mode)
        self.student.head.eval()
        return self

    def start_epoch(self, scan: Scan, clock: Clock) -> None:
        """Give every target sample the label of its nearest class centroid, or UNKNOWN."""
        features = torch.empty(len(self.labels), self.student.feature_dim)
        probs = torch.empty(len(self.labels), self.student.num_classes)
        for index, out in scan(self.student):
            rows = index.cpu()
            features[rows] = out.features.float().cpu()
            probs[rows] = out.logits.softmax(1).float().cpu()
        find = known_centroid_labels if self.regime == "open" else centroid_labels
        self.labels.copy_(find(features, probs, min_count=self.min_count))

    def losses(self, batch: TargetBatch, clock: Clock) -> Losses:
        """Paper eq. 7; for open targets certainty and labels concern known samples alone."""
        out: ClassOutput = self.student(batch.weak)
        probs, labels = out.logits.softmax(1), self.labels[batch.index]
        terms = {"diversity": diversity(probs)} if self.diverse else {}
        sure, logits = probs, out.logits
        if self.regime == "open":
            known = labels != UNKNOWN
            if not known.any():
                return {}  # no step, as in the authors' code
            sure, logits, labels = probs[known], out.logits[known], labels[known]
        terms["entropy"] = entropy(sure).mean()
        # the authors count steps from 1, so the last step of the first epoch has labels
        first = clock.step + 1 < clock.steps_per_epoch
        if self.config.pseudo_weight and (self.config.first_epoch_pseudo or not first):
            terms["pseudo"] = self.config.pseudo_weight * F.cross_entropy(logits, labels)
        return terms


@torch.no_grad()
@full_precision
def centroid_labels(
    features: Float[Tensor, "N D"],
    probs: Float[Tensor, "N C"],
    *,
    min_count: int = 0,
    refresh: bool = True,
) -> Int[Tensor, " N"]:
    """Labels by the nearest class centroid in cosine distance; two rounds (paper, eq. 4 to 6).

    Features are extended by a 1, which mirrors the classifier's bias, and brought to unit length.
    The first round weights the centroids with `probs`, the second with the labels just found.
    Only classes that more than `min_count` samples carry keep a centroid: at that moment, or,
    without `refresh`, at first. Should none do, the labels stay as they are.
    """
    unit = F.normalize(F.pad(features.float(), (0, 1), value=1.0), dim=1)
    labels, weights = probs.argmax(1), probs.float()
    with_centroid = _carried(labels, probs.shape[1], min_count)
    for _ in range(2):
        if not len(with_centroid):
            return labels
        centroids = weights.T @ unit / (1e-8 + weights.sum(0))[:, None]
        cosine = unit @ F.normalize(centroids[with_centroid], dim=1).T
        labels = with_centroid[cosine.argmax(1)]
        weights = F.one_hot(labels, probs.shape[1]).float()
        if refresh:
            with_centroid = _carried(labels, probs.shape[1], min_count)
    return labels


def _carried(labels: Int[Tensor, " N"], classes: int, min_count: int) -> Int[Tensor, " K"]:
    return (labels.bincount(minlength=classes) > min_count).nonzero().flatten()


@torch.no_grad()
@full_precision
def known_centroid_labels(
    features: Float[Tensor, "N D"], probs: Float[Tensor, "N C"], *, min_count: int = 0
) -> Int[Tensor, " N"]:
    """For open targets: the cluster of uncertain samples is UNKNOWN, the others as usual.

    Two clusters of the entropies; the kept classes are those of the start (released code).
    """
    known = ~split_in_two(uncertainty(probs))[0]
    labels = torch.full_like(probs[:, 0], UNKNOWN, dtype=torch.long)
    labels[known] = centroid_labels(
        features[known], probs[known], min_count=min_count, refresh=False
    )
    return labels


EXPORT = Shot
