"""ProDe without prompt tuning: learning from a guide whose answers are moved by the model's own
drift (Tang et al., "Proxy Denoising for Source-Free Domain Adaptation", ICLR 2025,
arXiv:2406.01658).

The guide errs in its own way. As the model moves away from the source, that drift is added to the
guide's logits, and the model learns from the moved answer by mutual information and hard labels.
The paper tunes the guide's prompts beside that, which is left out here, so this is not its whole
method. The source's logits are of the test view in eval mode, where the released code takes them in
train mode from batches of two (docs/methods/guided.md, section 5).
"""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor

from sfda.building_blocks.precision import full_precision
from sfda.methods._base import Method, MethodConfig
from sfda.problems.classification.network import Classifier, ClassOutput
from sfda.settings import Schedule
from sfda.types import Clock, Losses, Scan, TargetBatch, TargetInfo

SMALLEST_JOINT = torch.finfo(torch.float64).eps  # of joint probabilities
INSIDE_LOG = 1e-5


class ProDeConfig(MethodConfig):
    """Defaults: Office-Home, as in the released code."""

    schedule: Schedule = Schedule(lr=5e-3, epochs=30)
    lr_scale: dict[str, float] = {"backbone": 0.1, "head": 0.1}
    source_weight: NonNegativeFloat = 1.0  # omega, of the source's logits in the drift
    mi: NonNegativeFloat = 1.3  # lambda_mi, weight of the mutual information
    ce: NonNegativeFloat = 0.4  # lambda_ce, of the moved answer as a label
    diversity: NonNegativeFloat = 1.0  # lambda_div, of the entropy of the batch's mean answer
    epsilon: PositiveFloat = 1e-5  # inside that entropy's logarithm


class ProDe(Method):
    """Proxy denoising, for classification."""

    idea = "ProDe without prompt tuning: a guide's answers, moved by how far the model has drifted"
    Config = ProDeConfig
    networks: ClassVar[tuple[type[Classifier], ...]] = (Classifier,)
    setting: ClassVar[str] = "with a guide"
    minimises: ClassVar[frozenset[str]] = frozenset({"infomax"})
    needs_guide: ClassVar[frozenset[str]] = frozenset({"logits"})
    config: ProDeConfig
    source_logits: Float[Tensor, "N C"]

    def __init__(self, source: Classifier, target: TargetInfo, config: ProDeConfig) -> None:
        super().__init__(source, target, config)
        assert target.guide is not None
        self.guide = target.guide
        self.register_buffer("source_logits", torch.zeros(target.size, source.num_classes))

    def start_epoch(self, scan: Scan, clock: Clock) -> None:
        """The source's logits, once."""
        if clock.epoch == 0:
            for index, out in scan(self.student):
                self.source_logits[index] = out.logits.float()

    def losses(self, batch: TargetBatch, clock: Clock) -> Losses:
        """The moved answer is a constant, and gradient goes through the model's alone."""
        c = self.config
        out: ClassOutput = self.student(batch.weak)
        probs = out.logits.softmax(1)
        taught = moved_answer(
            out.logits,
            self.guide.logits[batch.index],
            self.source_logits[batch.index],
            self.guide.answered[batch.index],
            c.source_weight,
        )
        terms = {
            "mutual_information": c.mi * assignment_information(probs, taught.probs),
            "label": c.ce * F.cross_entropy(out.logits, taught.labels),
        }
        if c.diversity:
            terms["diversity"] = c.diversity * negative_diversity(probs, c.epsilon)
        return terms


class MovedAnswer(NamedTuple):
    """What a batch is taught."""

    labels: Int[Tensor, " B"]
    probs: Float[Tensor, "B C"]


@torch.no_grad()
def moved_answer(
    logits: Float[Tensor, "B C"],
    guide: Float[Tensor, "B C"],
    source: Float[Tensor, "B C"],
    answered: Bool[Tensor, " B"],
    source_weight: float,
) -> MovedAnswer:
    """The guide's logits plus the drift of the model's, logits - source_weight * source; the
    model's own where the guide is silent, since the drift alone is noise.
    """
    logits = logits.float()
    moved = torch.where(answered[:, None], guide + logits - source_weight * source, logits)
    return MovedAnswer(moved.argmax(1), moved.softmax(1))


@full_precision
def assignment_information(
    one: Float[Tensor, "B C"], other: Float[Tensor, "B C"]
) -> Float[Tensor, ""]:
    """Mutual information of two soft assignments, negative: lower is better (Ji et al., ICCV 2019,
    arXiv:1807.06653, eq. 3). In nats; poor for fewer samples than classes.
    """
    joint = one.T @ other
    joint = (joint + joint.T) / 2
    joint = joint / joint.sum()
    single = joint.sum(1)
    joint = joint.clamp_min(SMALLEST_JOINT)
    logs = (joint + INSIDE_LOG).log()
    logs = logs - (single + INSIDE_LOG).log()[:, None] - (single + INSIDE_LOG).log()[None]
    return -(joint * logs).sum()


@full_precision
def negative_diversity(probs: Float[Tensor, "B C"], epsilon: float) -> Float[Tensor, ""]:
    """Minus the entropy of the mean answer, in nats."""
    mean = probs.mean(0)
    return (mean * (mean + epsilon).log()).sum()


EXPORT = ProDe
