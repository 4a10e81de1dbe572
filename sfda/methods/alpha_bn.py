"""alpha-BN: source and target statistics mixed ("Test-time Batch Statistics Calibration",
arXiv:2110.04065).

No weight changes. The paper mixes the statistics of each test batch; here those of the whole target
are folded into ordinary batch norms, w S + (1 - w) T, so that a prediction depends on
its image alone.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal, Self

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from sfda.building_blocks.class_ratios import RatioPrior, floored
from sfda.building_blocks.norm import alpha_statistics, norms
from sfda.errors import BadInput
from sfda.methods._base import Learns, Method, MethodConfig
from sfda.problems.classification.network import Classifier
from sfda.problems.segmentation.network import Segmenter
from sfda.settings import Schedule
from sfda.types import Clock, Losses, Scan, Seen, TargetBatch, TargetInfo

CHOICES = (1.0, 0.95, 0.9, 0.7, 0.5, 0.0)  # source weights that "auto" tries


class AlphaBnConfig(MethodConfig):
    """The paper's weight for dense prediction. "auto" tries several and judges without labels."""

    schedule: Schedule = Schedule(epochs=1)
    source_weight: Annotated[float, Field(ge=0, le=1)] | Literal["auto"] = 0.9


class AlphaBn(Method):
    """Mixed batch-norm statistics, for every problem."""

    idea = "batch-norm statistics of source and target mixed, no weight changes"
    Config = AlphaBnConfig
    learns: ClassVar[Learns] = "statistics"
    labelled_rows: ClassVar[Literal["added", "own", "none"]] = "none"
    networks: ClassVar[tuple[type[nn.Module], ...]] = (
        Classifier,
        Segmenter,
    )
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
        weight = 1.0 if config.source_weight == "auto" else config.source_weight
        self.register_buffer("chosen", torch.tensor(weight))

    def train(self, mode: bool = True) -> Self:
        """The network stays in eval mode, so that no statistic moves."""
        self.training = mode
        return self

    def start_epoch(self, scan: Scan, clock: Clock) -> None:
        """Gather the target's statistics in one look, and fold them in; once, at the start."""
        if clock.epoch > 0:
            return
        if self.config.source_weight == "auto":
            self._choose(scan)
        else:
            alpha_statistics(self.student, scan, source_weight=self.config.source_weight)

    def _choose(self, scan: Scan) -> None:
        """Keep the network with the least entropy and the least surprise in its class ratios."""
        expected, least = self._expected(scan), float("inf")
        source = copy.deepcopy(self.student)
        for weight in CHOICES:
            tried = copy.deepcopy(source)
            if weight < 1:
                alpha_statistics(tried, scan, source_weight=weight)
            entropy, ratios = mean_prediction(scan(tried))
            ratios = floored(ratios)
            score = entropy + float((ratios * (ratios / expected).log()).sum())
            if score < least:
                least = score
                self.chosen.fill_(weight)
                self.student.load_state_dict(tried.state_dict())

    def _expected(self, scan: Scan) -> Float[Tensor, " C"]:
        """Class ratios from the user or the source card, else as the source model predicts them."""
        before = mean_prediction(scan(self.student))[1]
        prior = RatioPrior(self.target, None, len(before)).to(before.device)
        return floored(prior.mean()) if prior.known else floored(before)

    def status(self) -> str:
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
