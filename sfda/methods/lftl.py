"""LFTL, adaptation guided by labelled anchors ("Learn from the Learnt", Lyu et al., ECCV 2024,
arXiv:2407.18899), by the released code; the query of the same name asks for the labels.

Labelled samples teach by cross-entropy, unlabelled ones by information maximisation and by being
drawn to few anchors: the features of the labelled samples, kept over the run. After each epoch
mixes of its labelled batches teach once more. A round goes on from the last round's network: give
it as the source. Differences from the code: anchors are written to the rows they belong to (the
code's index is a known slip; `step_memory=false` leaves its net effect), begin anew in each round,
where two epochs leave a hundredth of the old ones, and of an epoch's labelled images at most
`mix_images` are kept for mixing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn

from sfda.building_blocks.losses import diversity, entropy
from sfda.building_blocks.precision import full_precision
from sfda.errors import BadInput
from sfda.methods._base import Method, MethodConfig
from sfda.problems.classification.network import Classifier, ClassOutput
from sfda.refs import Share
from sfda.settings import Schedule
from sfda.types import Clock, Losses, Scan, TargetBatch, TargetInfo


class LftlConfig(MethodConfig):
    """Defaults: VisDA-C's, with all unlabelled samples and so the anchors' weight of Office-31."""

    schedule: Schedule = Schedule(lr=1e-3, epochs=10)
    lr_scale: dict[str, float] = {"backbone": 0.1}
    infomax_weight: NonNegativeFloat = 0.9  # beta_im
    anchor_weight: NonNegativeFloat = 1.0  # beta_vpa; 10 on VisDA-C
    momentum: Share = 0.9  # gamma, the weight of the new feature
    step_memory: bool = True  # anchors follow the labelled batches, not only the epochs
    unlabelled: Literal["all", "balanced"] = "all"  # balanced: labelled + unlabelled = 2 budget
    budget: PositiveInt | None = None  # labels of all rounds; None: those there are
    mix_alpha: PositiveFloat = 0.75
    mix_images: NonNegativeInt = 4096


class Lftl(Method):
    """Anchors, information maximisation and mixed labelled samples for classification."""

    idea = "unlabelled samples are drawn to the labelled ones; labelled ones are mixed"
    Config = LftlConfig
    networks: ClassVar[tuple[type[nn.Module], ...]] = (Classifier,)
    setting: ClassVar[str] = "a few labels"
    labelled_rows: ClassVar[Literal["added", "own", "none"]] = "own"
    minimises: ClassVar[frozenset[str]] = frozenset({"entropy", "infomax", "nuclear_norm"})
    config: LftlConfig
    memory: Float[Tensor, "L D"]
    row_in_memory: Int[Tensor, " N"]

    def __init__(self, source: Classifier, target: TargetInfo, config: LftlConfig) -> None:
        super().__init__(source, target, config)
        if target.labelled is None or not len(target.labelled):
            raise BadInput(
                "lftl learns from labelled rows, and the target has none: ask for some with "
                "`sfda query --by lftl` and take them in with `sfda answer`"
            )
        self.rows = target.labelled
        row_in_memory = torch.full((target.size,), -1)
        row_in_memory[self.rows] = torch.arange(len(self.rows))
        self.register_buffer("row_in_memory", row_in_memory, persistent=False)
        self.register_buffer("memory", torch.zeros(len(self.rows), source.feature_dim))
        self.unlabelled = (row_in_memory < 0).nonzero().flatten()
        self.mixable: list[tuple[Tensor, Tensor]] = []

    def sample(self, epoch: int) -> Int[Tensor, " R"]:
        """The unlabelled rows, or so many draws from them as balance the labelled ones."""
        if self.config.unlabelled == "all" or not len(self.unlabelled):
            return self.unlabelled if len(self.unlabelled) > 1 else torch.arange(self.target.size)
        labelled = len(self.rows)
        times = max(1, math.ceil(2 * (self.config.budget or labelled) / labelled) - 1)
        # `adapt` seeds torch anew for every (seed, epoch); here no draw moves its numbers
        drawn = (torch.initial_seed() + 7_919 * epoch + labelled) % 2**63
        generator = torch.Generator().manual_seed(drawn)
        count = max(2, times * labelled)
        return self.unlabelled[torch.randint(len(self.unlabelled), (count,), generator=generator)]

    def start_epoch(self, scan: Scan, clock: Clock) -> None:
        """Move every anchor to what the network now makes of its sample."""
        self.mixable = []
        for index, out in scan(self.student, self.rows):
            self._remember(index, out.features)

    @torch.no_grad()
    def _remember(self, index: Int[Tensor, " B"], features: Float[Tensor, "B D"]) -> None:
        """M_j <- gamma z_j + (1 - gamma) M_j (paper, section 3.3)."""
        rows = self.row_in_memory[index.to(self.row_in_memory.device)]
        self.memory[rows] = torch.lerp(
            self.memory[rows], features.detach().float(), self.config.momentum
        )

    def losses(self, batch: TargetBatch, clock: Clock) -> Losses:
        """Cross-entropy, information maximisation and the entropy of nearness to the anchors."""
        assert batch.labelled is not None
        out: ClassOutput = self.student(batch.weak)
        annotated: ClassOutput = self.student(batch.labelled.images)
        if self.config.step_memory:
            self._remember(batch.labelled.index, annotated.features)
        self._keep(batch.labelled.images, batch.labelled.targets)
        probs = out.logits.softmax(1)
        c = self.config
        return {
            "class": F.cross_entropy(annotated.logits, batch.labelled.targets),
            "infomax": c.infomax_weight * (entropy(probs).mean() + diversity(probs)),
            "anchors": c.anchor_weight * anchor_entropy(out.features, self.memory),
        }

    def _keep(self, images: Tensor, targets: Tensor) -> None:
        room = self.config.mix_images - sum(len(part) for _, part in self.mixable)
        if room > 0:
            self.mixable.append((images[:room].cpu(), targets[:room].cpu()))

    def end_epoch(self, clock: Clock) -> Iterator[Losses]:
        """Mixup of the epoch's labelled images with a shuffled copy, each pair by
        max(m, 1 - m), m ~ Beta(alpha, alpha) (MixMatch, arXiv:1905.02249, eq. 8).
        """
        if len(self.rows) <= 1 or not self.mixable:
            return
        device, classes = self.memory.device, self.student.num_classes
        images, labels = (torch.cat(parts) for parts in zip(*self.mixable, strict=True))
        self.mixable = []
        size = self.config.schedule.batch_size
        beta = torch.distributions.Beta(self.config.mix_alpha, self.config.mix_alpha)
        order, other = torch.randperm(len(labels)), torch.randperm(len(labels))
        for one, two in zip(order.split(size), other.split(size), strict=True):
            if len(one) < 2:
                continue
            share = beta.sample((len(one),))
            share = torch.maximum(share, 1 - share)
            x = torch.lerp(images[two].float(), images[one].float(), share.view(-1, 1, 1, 1))
            onehot = F.one_hot(labels, classes).float()
            y = torch.lerp(onehot[two], onehot[one], share[:, None])
            out: ClassOutput = self.student(x.to(device))
            yield {"mixed": F.cross_entropy(out.logits, y.to(device))}


@full_precision
def anchor_entropy(
    features: Float[Tensor, "B D"], anchors: Float[Tensor, "L D"]
) -> Float[Tensor, ""]:
    """Mean entropy of the softmax over the cosines to the anchors, at temperature 1: low where a
    sample is near to few of them (paper, section 3.3). Gradient reaches the features alone.
    """
    cosine = (
        F.normalize(features.float(), dim=1, eps=1e-8)
        @ F.normalize(anchors.detach(), dim=1, eps=1e-8).T
    )
    return entropy(cosine.softmax(1)).mean()


EXPORT = Lftl
