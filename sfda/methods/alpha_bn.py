"""alpha-BN: source and target statistics mixed ("Test-time Batch Statistics Calibration",
arXiv:2110.04065).

No weight changes. The paper mixes the statistics of each test batch; here those of the whole target
are folded into ordinary batch norms, w S + (1 - w) T, so that an answer depends on its image alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal, Self

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from sfda.class_ratios import floored
from sfda.errors import BadInput
from sfda.methods._base import Method, MethodConfig
from sfda.norm import Moments, fold_, mix_norms_, norms, plain_norms_
from sfda.schedule import Schedule
from sfda.types import Clock, Losses, Scan, Seen, TargetBatch, TargetInfo

CHOICES = (1.0, 0.95, 0.9, 0.7, 0.5, 0.0)  # source weights that "auto" tries
GATHERED = 0.9  # source weight of the network that the target's statistics are taken with


class AlphaBnConfig(MethodConfig):
    """The paper's weight for dense prediction. "auto" tries several and judges without labels."""

    schedule: Schedule = Schedule(epochs=1)
    source_weight: Annotated[float, Field(ge=0, le=1)] | Literal["auto"] = 0.9


class AlphaBn(Method):
    """Mixed batch-norm statistics, for every problem."""

    Config = AlphaBnConfig
    problems: ClassVar[frozenset[str]] = frozenset({"classification", "segmentation"})
    setting: ClassVar[str] = "any"
    config: AlphaBnConfig
    chosen: Float[Tensor, ""]

    def __init__(self, source: nn.Module, target: TargetInfo, config: AlphaBnConfig) -> None:
        super().__init__(source, target, config)
        if not norms(self.student):
            raise BadInput(
                "the network has no batch-norm statistics, so alpha_bn changes nothing; use "
                "another method, or `source`"
            )
        weight = config.source_weight
        self.register_buffer("chosen", torch.tensor(GATHERED if weight == "auto" else weight))

    def train(self, mode: bool = True) -> Self:
        """The network stays in eval mode, so that no statistic moves."""
        self.training = mode
        return self

    def start_epoch(self, scan: Scan, clock: Clock) -> None:
        """Gather the target's statistics in one look, and fold them in."""
        before = None
        if self.config.source_weight == "auto":
            before = mean_prediction(scan(self.student))[1]
        gathered = self.config.source_weight if before is None else GATHERED
        layers = mix_norms_(self.student, source_weight=gathered, online=True)
        for layer in layers:
            layer.seen = Moments(layer.num_features, layer.source_mean.device)
        for _ in scan(self.student):
            pass
        if before is not None:
            self.chosen.fill_(self._best(scan, layers, self._expected(before)))
        for layer in layers:
            layer.online = False
            fold_(layer, float(self.chosen))
        plain_norms_(self.student)

    def _best(self, scan: Scan, layers: list[Any], expected: Float[Tensor, " C"]) -> float:
        """The weight with the least entropy and the least surprise in its class ratios."""
        scores = []
        for weight in CHOICES:
            for layer in layers:
                layer.online = False
                fold_(layer, weight)
            entropy, ratios = mean_prediction(scan(self.student))
            ratios = floored(ratios)
            scores.append(entropy + float((ratios * (ratios / expected).log()).sum()))
        return CHOICES[scores.index(min(scores))]

    def _expected(self, before: Float[Tensor, " C"]) -> Float[Tensor, " C"]:
        known = self.target.source_ratios
        return floored(before if known is None else known.to(before.device))

    def remark(self) -> str:
        """The weight, where it was chosen."""
        if self.config.source_weight != "auto":
            return ""
        return f"source statistics count {float(self.chosen):g}, chosen without labels"

    def losses(self, batch: TargetBatch, clock: Clock) -> Losses:
        """None: everything was done in one look."""
        return {}

    def parameter_groups(self, schedule: Schedule) -> list[dict[str, Any]]:
        """None: nothing is trained."""
        return []


def mean_prediction(seen: Iterator[Seen]) -> tuple[float, Float[Tensor, " C"]]:
    """Mean entropy in nats, and mean probability of each class."""
    entropy, count, total = 0.0, 0, None
    for _, output in seen:
        logits = output.logits.float()
        probs = logits.softmax(1)
        entropy -= float((probs * logits.log_softmax(1)).sum())
        sums = probs.transpose(0, 1).flatten(1).sum(1)
        total = sums if total is None else total + sums
        count += logits.numel() // logits.shape[1]
    assert total is not None
    return entropy / count, total / count


EXPORT = AlphaBn
