"""BN: batch-norm statistics of the target in place of the source's (AdaBN, arXiv:1603.04779).

No weight changes. One pass over the target gives every batch-norm layer the mean of its batches'
means and variances; in a detector, whose batch norm is often frozen, those over all pixels.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

import torch
from torch import nn

from sfda.building_blocks.norm import norms, train_norms_
from sfda.errors import BadInput
from sfda.methods._base import Learns, Method, MethodConfig
from sfda.methods._norm_statistics import NormParts, detector_norms, renew_statistics_
from sfda.networks.detector import Detector
from sfda.problems.classification.network import Classifier
from sfda.problems.multilabel.network import MultilabelClassifier
from sfda.problems.pose.network import PoseNet
from sfda.problems.segmentation.network import Segmenter
from sfda.refs import Share
from sfda.settings import Schedule
from sfda.types import Clock, Losses, Scan, TargetBatch, TargetInfo


class BnConfig(MethodConfig):
    """One pass; incomplete batches are left out, since all batches weigh the same."""

    schedule: Schedule = Schedule(epochs=1, drop_last=True)
    parts: NormParts = "backbone"  # detection: whose statistics are renewed
    source_weight: Share = 0.0  # detection: of the source's statistics


class Bn(Method):
    """Recomputed batch-norm statistics, for every problem."""

    idea = "batch-norm statistics of the target, no weight changes"
    Config = BnConfig
    learns: ClassVar[Learns] = "statistics"
    labelled_rows: ClassVar[Literal["added", "own", "none"]] = "none"
    networks: ClassVar[tuple[type[nn.Module], ...]] = (
        Classifier,
        Segmenter,
        PoseNet,
        MultilabelClassifier,
        Detector,
    )
    setting: ClassVar[str] = "any"
    config: BnConfig

    def __init__(self, source: nn.Module, target: TargetInfo, config: BnConfig) -> None:
        super().__init__(source, target, config)
        self._in_maps = isinstance(source, Detector)
        layers = detector_norms if self._in_maps else norms
        if not layers(self.student):
            raise BadInput(
                "the network has no batch-norm statistics, so bn changes nothing; use another "
                "method, or `source`"
            )

    def train(self, mode: bool = True) -> Self:
        """Batch norm alone works in train mode: dropout would disturb the statistics."""
        self.training = mode
        if self._in_maps:
            self.student.eval()
            return self
        train_norms_(self.student, mode)
        return self

    def start_epoch(self, scan: Scan, clock: Clock) -> None:
        """Forget the statistics: every pass starts anew. A detector's are those of this look."""
        if self._in_maps:
            renew_statistics_(
                self.student,
                scan,
                parts=self.config.parts,
                source_weight=self.config.source_weight,
            )
            return
        for layer in norms(self.student):
            layer.reset_running_stats()
            layer.momentum = None  # the plain mean over all batches

    def losses(self, batch: TargetBatch, clock: Clock) -> Losses:
        """None; the forward pass moves the statistics, except a detector's."""
        if self._in_maps:
            return {}
        with torch.no_grad():
            self.student(batch.weak)
        return {}

    def parameter_groups(self, schedule: Schedule) -> list[dict[str, Any]]:
        """None: nothing is trained."""
        return []


EXPORT = Bn
