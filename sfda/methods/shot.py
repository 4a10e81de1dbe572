"""SHOT: source hypothesis transfer (Liang et al., ICML 2020, arXiv:2002.08546).

The classifier is frozen; features are moved until they fit it: certain predictions, all classes in
use, and agreement with pseudo-labels from class centroids of the target itself.
"""

from __future__ import annotations

from typing import ClassVar, Self

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from pydantic import NonNegativeFloat, NonNegativeInt
from torch import Tensor

from sfda.losses import diversity, entropy
from sfda.methods._base import Method, MethodConfig
from sfda.precision import full_precision
from sfda.problems.classification import Classifier, ClassOutput
from sfda.schedule import Schedule
from sfda.types import Clock, Losses, Scan, TargetBatch, TargetInfo


class ShotConfig(MethodConfig):
    """Defaults: Office-31 and Office-Home, closed set (paper, section 4.1)."""

    schedule: Schedule = Schedule(lr=1e-2, epochs=15)
    lr_scale: dict[str, float] = {"backbone": 0.1, "head": 0.0}
    pseudo_weight: NonNegativeFloat = 0.3  # beta; 0 gives SHOT-IM
    diversity: bool = True  # off for partial targets
    min_count: NonNegativeInt = 0  # tau: classes with no more samples than this lose their centroid
    first_epoch_pseudo: bool = True  # off on VisDA-C: the first epoch minimises information alone


class Shot(Method):
    """Information maximisation and centroid pseudo-labels for classification."""

    Config = ShotConfig
    problems: ClassVar[frozenset[str]] = frozenset({"classification"})
    minimises: ClassVar[frozenset[str]] = frozenset({"entropy", "infomax", "nuclear_norm"})
    config: ShotConfig
    labels: Int[Tensor, " N"]

    def __init__(self, source: Classifier, target: TargetInfo, config: ShotConfig) -> None:
        super().__init__(source, target, config)
        self.register_buffer("labels", torch.zeros(target.size, dtype=torch.long))

    def train(self, mode: bool = True) -> Self:
        """The frozen classifier stays in eval mode."""
        super().train(mode)
        self.student.head.eval()
        return self

    def start_epoch(self, scan: Scan, clock: Clock) -> None:
        """Give every target sample the label of its nearest class centroid."""
        features = torch.empty(len(self.labels), self.student.feature_dim)
        probs = torch.empty(len(self.labels), self.student.num_classes)
        for index, out in scan(self.student):
            rows = index.cpu()
            features[rows] = out.features.float().cpu()
            probs[rows] = out.logits.softmax(1).float().cpu()
        self.labels.copy_(centroid_labels(features, probs, min_count=self.config.min_count))

    def losses(self, batch: TargetBatch, clock: Clock) -> Losses:
        """Paper eq. 7."""
        out: ClassOutput = self.student(batch.weak)
        probs = out.logits.softmax(1)
        found = {"entropy": entropy(probs).mean()}
        if self.config.diversity:
            found["diversity"] = diversity(probs)
        if self.config.pseudo_weight and (clock.epoch > 0 or self.config.first_epoch_pseudo):
            pseudo = F.cross_entropy(out.logits, self.labels[batch.index])
            found["pseudo"] = self.config.pseudo_weight * pseudo
        return found


@torch.no_grad()
@full_precision
def centroid_labels(
    features: Float[Tensor, "N D"], probs: Float[Tensor, "N C"], *, min_count: int = 0
) -> Int[Tensor, " N"]:
    """Labels by the nearest class centroid in cosine distance; two rounds (paper, eq. 4 to 6).

    Features are extended by a 1, which mirrors the classifier's bias, and brought to unit length.
    The first round weights the centroids with `probs`, the second with the labels just found.
    Only classes that more than `min_count` samples carry at that moment keep a centroid. Should
    none do, the labels stay as they are.
    """
    unit = F.normalize(F.pad(features.float(), (0, 1), value=1.0), dim=1)
    labels, weights = probs.argmax(1), probs.float()
    for _ in range(2):
        kept = (labels.bincount(minlength=probs.shape[1]) > min_count).nonzero().flatten()
        if not len(kept):
            return labels
        centroids = weights.T @ unit / (1e-8 + weights.sum(0))[:, None]
        cosine = unit @ F.normalize(centroids[kept], dim=1).T
        labels = kept[cosine.argmax(1)]
        weights = F.one_hot(labels, probs.shape[1]).float()
    return labels


EXPORT = Shot
