"""Co-learn: two branches label the target, the model and a frozen encoder (Zhang et al., ICCV 2023,
and Co-learn++, IJCV 2024, arXiv:2405.02954).

The encoder's branch is a nearest-centroid classifier whose centroids come from the model's own soft
answers. A sample is learnt where both agree, or where one alone is sure; labels and centroids are
renewed once an epoch, from one look: after an epoch and before the next the model is the same. The
authors augment by RandAugment, here it is the strong view; they mask with integers, here with truth
values (docs/methods/guided.md, section 2).
"""

from __future__ import annotations

from typing import ClassVar, Literal, NamedTuple, Self

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor

from sfda.building_blocks.precision import full_precision
from sfda.errors import BadInput
from sfda.guides.centroids import (
    CENTROID_TEMPERATURE,
    TEXT_TEMPERATURE,
    centroid_cosines,
    soft_centroids,
)
from sfda.methods._base import Method, MethodConfig
from sfda.problems.classification.network import Classifier, ClassOutput, spread_ratio
from sfda.refs import Share
from sfda.settings import Schedule
from sfda.types import Clock, Guide, Losses, Scan, TargetBatch, TargetInfo

Take = Literal["match_or_conf", "match_and_conf", "match", "other_conf", "self_conf"]
TextUse = Literal["none", "weak", "strong"]
FEW = 1e-5  # beside a count of samples that may be 0


class CoLearnConfig(MethodConfig):
    """Defaults: Office-Home, as in the released scripts; the backbone alone is trained."""

    schedule: Schedule = Schedule(
        momentum=0.0,
        nesterov=False,
        weight_decay=0.0,
        decay="steps",
        decay_every=10,
        decay_factor=0.1,
        batch_size=50,
        drop_last=True,
    )
    lr_scale: dict[str, float] = {"bottleneck": 0.0, "head": 0.0}
    threshold: Share = 0.5  # theta, above which a branch is sure
    temperature: PositiveFloat = CENTROID_TEMPERATURE  # tau, of cosines to centroids
    take: Take = "match_or_conf"
    text: Literal["auto", "none", "weak", "strong"] = "auto"  # of the guide's texts; auto: weak
    entropy: NonNegativeFloat = 0.0  # lambda, weight of the entropy of samples that are not used


class CoLearn(Method):
    """Labels of two branches, for classification."""

    idea = "labels where model and a frozen encoder agree, or where one of them alone is sure"
    Config = CoLearnConfig
    networks: ClassVar[tuple[type[Classifier], ...]] = (Classifier,)
    setting: ClassVar[str] = "with a guide"
    views: ClassVar[Literal["none", "photometric", "geometric"]] = "photometric"
    needs_guide: ClassVar[frozenset[str]] = frozenset({"features"})
    config: CoLearnConfig
    labels: Int[Tensor, " N"]
    used: Bool[Tensor, " N"]
    first: Int[Tensor, ""]

    def __init__(self, source: Classifier, target: TargetInfo, config: CoLearnConfig) -> None:
        super().__init__(source, target, config)
        assert target.guide is not None
        self.guide = target.guide
        texts = self.guide.text is not None
        if config.text in ("weak", "strong") and not texts:
            raise BadInput(f"text={config.text} needs a guide with texts: clip:ARCH@FILE")
        self.text: TextUse = config.text if config.text != "auto" else "weak" if texts else "none"
        self.register_buffer("labels", torch.zeros(target.size, dtype=torch.long))
        self.register_buffer("used", torch.zeros(target.size, dtype=torch.bool))
        self.register_buffer("first", torch.tensor(0))
        self._says = ""

    def train(self, mode: bool = True) -> Self:
        """What comes after the backbone rests, with its statistics."""
        super().train(mode)
        self.student.bottleneck.eval()
        self.student.head.eval()
        return self

    def start_epoch(self, scan: Scan, clock: Clock) -> None:
        """Centroids and labels of all rows, from one look."""
        logits = torch.zeros(len(self.labels), self.student.num_classes, device=self.labels.device)
        for index, out in scan(self.student):
            logits[index] = out.logits.float()
        answers = branches(logits, self.guide, self.text, self.config)
        self.labels.copy_(answers.labels)
        self.used.copy_(answers.used)
        if clock.epoch == 0:
            self.first.copy_(self.used.sum())
        self._says = answers.text()

    def losses(self, batch: TargetBatch, clock: Clock) -> Losses:
        """Cross-entropy of the samples that are used, entropy of the others; no step where there is
        neither.
        """
        used = self.used[batch.index]
        if not used.any() and not self.config.entropy:
            return {}
        out: ClassOutput = self.student(batch.strong)
        terms = {"label": label_loss(out.logits, self.labels[batch.index], used)}
        if self.config.entropy:
            terms["entropy"] = self.config.entropy * unused_entropy(out.logits, used)
        return terms

    def pseudo_labels_left(self) -> float | None:
        """Samples that are used, as a share of the first epoch's."""
        return float(self.used.sum()) / max(1, int(self.first))

    def status(self) -> str:
        """What the branches say of each other."""
        return self._says


class Branches(NamedTuple):
    """What model and encoder make of every row."""

    labels: Int[Tensor, " N"]
    used: Bool[Tensor, " N"]
    agree: Bool[Tensor, " N"]
    model_sure: Bool[Tensor, " N"]
    guide_sure: Bool[Tensor, " N"]

    def text(self) -> str:
        """Shares, on one line."""
        agree, model, guide, used = (
            float(one.double().mean())
            for one in (self.agree, self.model_sure, self.guide_sure, self.used)
        )
        none = "; nothing is learnt in this epoch" if not used else ""
        return (
            f"model and guide agree on {agree:.0%}; the model is sure of {model:.0%}, the guide of "
            f"{guide:.0%}; {used:.0%} are used{none}"
        )


def branches(
    logits: Float[Tensor, "N C"], guide: Guide, text: TextUse, config: CoLearnConfig
) -> Branches:
    """Centroids from the model's answers, the encoder's answers by them, and the labels of both."""
    assert guide.features is not None, "a guide with features is asked for"
    centroids = soft_centroids(guide.features, centroid_shares(logits, guide, text))
    probs = guide_branch(guide, centroids, text, config.temperature)
    return take_labels(logits.softmax(1), probs, config.threshold, config.take)


@full_precision
def centroid_shares(
    logits: Float[Tensor, "N C"], guide: Guide, text: TextUse
) -> Float[Tensor, "N C"]:
    """The model's probabilities, times those of the guide's texts where they are used: weak at a
    temperature of 0.05, strong at the one that gives them the spread of the model's logits.
    """
    probs = logits.softmax(1)
    if text == "none":
        return probs
    scores = _text_cosines(guide) / TEXT_TEMPERATURE
    if text == "strong":
        scores = scores * spread_ratio(scores, logits)
    both = probs * scores.softmax(1)
    return both / both.sum(1, keepdim=True)


@full_precision
def guide_branch(
    guide: Guide, centroids: Float[Tensor, "C G1"], text: TextUse, temperature: float
) -> Float[Tensor, "N C"]:
    """The encoder's probabilities; with strong texts their cosines, brought to the spread of those
    to the centroids, count as much.
    """
    assert guide.features is not None, "a guide with features is asked for"
    cosines = centroid_cosines(guide.features, centroids)
    if text == "strong":
        own = _text_cosines(guide)
        cosines = (cosines + own * spread_ratio(own, cosines)) / 2
    return (cosines / temperature).softmax(1)


def _text_cosines(guide: Guide) -> Float[Tensor, "N C"]:
    assert guide.text is not None, "a guide with texts is asked for"
    assert guide.features is not None, "and with features"
    return F.normalize(guide.features.float(), dim=1) @ guide.text.float().T


def take_labels(
    model: Float[Tensor, "N C"], guide: Float[Tensor, "N C"], threshold: float, take: Take
) -> Branches:
    """The label of each row and whether it is used, by the strategies of the released code."""
    model_sure, own = model.max(1)
    guide_sure, other = guide.max(1)
    a, b, agree = model_sure > threshold, guide_sure > threshold, own == other
    used = {
        "match_or_conf": agree | (a != b),
        "match_and_conf": agree & a & b,
        "match": agree,
        "other_conf": b,
        "self_conf": a,
    }[take]
    labels = torch.where(b & ~a, other, own)
    if take in ("other_conf", "self_conf"):
        labels = other if take == "other_conf" else own
    return Branches(labels, used, agree, a, b)


@full_precision
def label_loss(
    logits: Float[Tensor, "B C"], labels: Int[Tensor, " B"], used: Bool[Tensor, " B"]
) -> Float[Tensor, ""]:
    """Mean cross-entropy of the samples that are used; 0 where there are none."""
    each = F.cross_entropy(logits, labels, reduction="none")
    return (each * used).sum() / (used.sum() + FEW)


@full_precision
def unused_entropy(logits: Float[Tensor, "B C"], used: Bool[Tensor, " B"]) -> Float[Tensor, ""]:
    """Mean entropy of the other samples, with gradient through both factors."""
    each = -(logits.softmax(1) * logits.log_softmax(1)).sum(1)
    return (each * ~used).sum() / ((~used).sum() + FEW)


EXPORT = CoLearn
