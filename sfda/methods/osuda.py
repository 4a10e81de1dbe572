"""OSUDA: adapting off-the-shelf source segmenters (Liu et al., MICCAI 2021, arXiv:2106.12497).

Batch-norm statistics move from source to target with an exponentially decaying momentum; scale and
shift stay near the source's, the nearer the more a channel transfers; entropy is minimised. There
is no public code: the equations are the paper's, the choices that it leaves open ours and named.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal, Self

import torch
from jaxtyping import Float
from pydantic import NonNegativeFloat
from torch import Tensor, nn

from sfda.building_blocks.class_ratios import weighted_entropy
from sfda.building_blocks.norm import AlphaBN, channel_gap, mix_norms_, norms, train_norms_
from sfda.errors import BadInput
from sfda.methods._base import Method, MethodConfig
from sfda.problems.segmentation.network import Segmenter, SegOutput
from sfda.settings import Schedule
from sfda.types import Clock, Losses, TargetBatch, TargetInfo

SMOOTHING = 0.9  # of the channel gaps, against the noise of single batches; ours
SLOWED = 0.01  # of the rate where all parameters learn: 1e-5 for the usual 1e-3; ours


class OsudaConfig(MethodConfig):
    """Momentum decay and entropy weight as published; optimiser and length are ours."""

    schedule: Schedule = Schedule(
        optimizer="adam", lr=1e-3, weight_decay=0.0, decay="none", batch_size=8, epochs=10
    )
    momentum_decay: NonNegativeFloat = 1.0  # rho of eta = exp(-rho t)
    decay_unit: Literal["iteration", "epoch"] = "iteration"
    entropy_weight: NonNegativeFloat = 10.0  # lambda at the start; it falls to 0
    # what the regulariser protects, or all parameters, at a hundredth of the rate
    trained: Literal["affine", "all"] = "affine"


class Osuda(Method):
    """Batch-norm adaptation of a segmenter."""

    idea = (
        "statistics move to the target, scale and shift stay near the source's where channels "
        "transfer"
    )
    Config = OsudaConfig
    networks: ClassVar[tuple[type[nn.Module], ...]] = (Segmenter,)
    setting: ClassVar[str] = "networks with batch norm"
    minimises: ClassVar[frozenset[str]] = frozenset({"entropy"})
    config: OsudaConfig
    gap: Float[Tensor, " N"]
    affine: Float[Tensor, "2 N"]

    def __init__(self, source: Segmenter, target: TargetInfo, config: OsudaConfig) -> None:
        super().__init__(source, target, config)
        layers = [layer for layer in norms(self.student) if layer.affine]
        if not layers:
            raise BadInput(
                "the network has no batch norm with scale and shift, so osuda has nothing to "
                "adapt; use mean_teacher or adami"
            )
        mix_norms_(self.student, source_weight=1.0, batch_var="biased")
        channels = sum(layer.num_features for layer in layers)
        self.register_buffer("gap", torch.zeros(channels))
        self.register_buffer("affine", _affine(self._layers()).detach().clone())
        if config.trained == "affine":
            self.student.requires_grad_(False)
            for layer in self._layers():
                layer.weight.requires_grad_(True)
                layer.bias.requires_grad_(True)

    def _layers(self) -> list[AlphaBN]:
        return [m for m in self.student.modules() if isinstance(m, AlphaBN) and m.affine]

    def train(self, mode: bool = True) -> Self:
        """Batch norm alone works in train mode: dropout would disturb the entropies."""
        self.training = mode
        train_norms_(self.student, mode)
        return self

    def losses(self, batch: TargetBatch, clock: Clock) -> Losses:
        """Distance of scale and shift from the source's, and entropy."""
        share = source_share(clock, self.config.momentum_decay, self.config.decay_unit)
        for layer in norms(self.student):
            if isinstance(layer, AlphaBN):
                layer.source_weight = share
        out: SegOutput = self.student(batch.weak)
        probs = out.logits.softmax(1)
        self._note_gaps(clock)
        ones = torch.ones(probs.shape[1], device=probs.device)
        weight = self.config.entropy_weight * (1 - clock.fraction)
        return {
            "consistency": scale_consistency(_affine(self._layers()), self.affine, self.gap),
            "entropy": weight * weighted_entropy(probs, ones, batch.shown),
        }

    @torch.no_grad()
    def _note_gaps(self, clock: Clock) -> None:
        """How far each channel's statistics of this batch are from the source's."""
        now = torch.cat([channel_gap(layer) for layer in self._layers()])
        self.gap.copy_(now if clock.step == 0 else SMOOTHING * self.gap + (1 - SMOOTHING) * now)

    def status(self) -> str:
        """The gap between the domains, once it is known, and a warning where all is trained."""
        lines = []
        if self.config.trained == "all":
            lines.append("all parameters learn, and nothing holds those outside batch norm")
        if bool(self.gap.any()):
            parts = torch.tensor([0.1, 0.5, 0.9], device=self.gap.device)
            low, middle, high = self.gap.quantile(parts).tolist()
            lines.append(
                f"channel gap: median {middle:.2f}, 10 to 90 % of channels {low:.2f} to {high:.2f}"
            )
        return "; ".join(lines)

    def parameter_groups(self, schedule: Schedule) -> list[dict[str, Any]]:
        """Scale and shift of every batch norm, or, if all is trained, everything, slowly."""
        if self.config.trained == "all":
            groups = super().parameter_groups(schedule)
            return [{**group, "scale": SLOWED * group["scale"]} for group in groups]
        trained = [p for p in self.student.parameters() if p.requires_grad]
        return [{"params": trained, "scale": 1.0, "name": "affine"}]


def source_share(clock: Clock, decay: float, unit: str) -> float:
    """eta = exp(-decay t), the part of the source statistics: 1 at first."""
    return math.exp(-decay * (clock.step if unit == "iteration" else clock.epoch))


def transferability(gap: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
    """alpha = N (1 + d)^-1 / sum (1 + d)^-1 over all channels: 1 on average."""
    inverse = 1 / (1 + gap)
    return len(gap) * inverse / inverse.sum()


def scale_consistency(
    affine: Float[Tensor, "2 N"], source: Float[Tensor, "2 N"], gap: Float[Tensor, " N"]
) -> Float[Tensor, ""]:
    """L_HBS = sum (1 + alpha) (|gamma_S - gamma| + |beta_S - beta|) over all channels."""
    return ((1 + transferability(gap)) * (affine - source).abs().sum(0)).sum()


def _affine(layers: list[AlphaBN]) -> Float[Tensor, "2 N"]:
    """Scales and shifts of all layers, one after the other."""
    scales: list[Tensor] = [layer.weight for layer in layers]
    shifts: list[Tensor] = [layer.bias for layer in layers]
    return torch.stack([torch.cat(scales), torch.cat(shifts)])


EXPORT = Osuda
