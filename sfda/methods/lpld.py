"""LPLD: distilling low-confidence pseudo-labels (Yoon et al., ECCV 2024, arXiv:2407.13524).

A teacher, averaged from past students, labels the weak view with its sure boxes, from which the
student learns on the strong view as from a person's. Regions that the teacher half sees, away from
those boxes, teach too: the student is given its class mixture without the background, the more the
further its features are from the teacher's. The teacher is deployed. Of the release two things are
left out on purpose: it drops target images that have no labelled object, and it lets gradients run
into the teacher.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from jaxtyping import Bool
from pydantic import NonNegativeFloat
from torch import Tensor, nn

from sfda.building_blocks.boxes import Boxes
from sfda.building_blocks.ema import ema_update_, make_teacher
from sfda.errors import BadInput
from sfda.methods._base import Method, MethodConfig
from sfda.networks.detector import Detector, Features, Regions
from sfda.problems._teaching import Taught
from sfda.problems.detection import loss as detection_loss
from sfda.problems.detection.distillation import distillation, feature_distance, mine
from sfda.problems.detection.teaching import BoxGuard, BoxTeaching, freeze_stem_, sorted_out
from sfda.refs import Share
from sfda.settings import Schedule
from sfda.types import Clock, Losses, TargetBatch, TargetInfo


class LpldConfig(MethodConfig):
    """The release's values, made slower so that no class is lost: a rate of 3e-4 for 1e-3, a tenth
    of it for the backbone, gradients clipped, and images without boxes teach nothing (see
    `BoxTeaching`). The preset `lpld-release` has the release's own.
    """

    schedule: Schedule = Schedule(
        lr=3e-4,
        nesterov=False,
        weight_decay=1e-4,
        decay="none",
        batch_size=1,
        epochs=10,
        clip_norm=10.0,
    )
    lr_scale: dict[str, float] = {"backbone": 0.1}  # the release's is 1
    threshold: Share = 0.7  # of sure boxes, strictly above
    decay: Share = 0.75  # the teacher's share of itself
    interval: Literal["epoch", "step"] = "epoch"  # at whose end the teacher moves
    boxes: BoxTeaching = BoxTeaching()
    iou: Share = 0.4  # a mined region overlaps no sure box more
    confidence: Share = 0.9  # of the foreground's softmax, at least
    background: Share = 0.99  # probability of the background, at most
    weight: NonNegativeFloat = 0.1
    by_distance: bool = True  # weigh regions by the distance of the two networks' features


class Lpld(Method):
    """Mean teacher of detectors, with distillation of half-seen regions."""

    idea = "boxes of an averaged teacher, and distillation of the regions that it half sees"
    Config = LpldConfig
    networks: ClassVar[tuple[type[nn.Module], ...]] = (Detector,)
    setting: ClassVar[str] = "two-stage"
    views: ClassVar[Literal["none", "photometric", "geometric"]] = "photometric"
    config: LpldConfig

    def __init__(self, source: Detector, target: TargetInfo, config: LpldConfig) -> None:
        if not source.two_stage:
            raise BadInput(
                "lpld distils the regions of a two-stage detector with one box head, and this "
                "model has none: use mean_teacher, or import a Faster R-CNN"
            )
        super().__init__(source, target, config)
        freeze_stem_(self.student, config.boxes.freeze_stem)
        self.teacher = make_teacher(self.student)
        self.guard = BoxGuard(target, source.num_classes)

    def losses(self, batch: TargetBatch, clock: Clock) -> Losses:
        """The detector's losses on the sure boxes, and the distillation of the others."""
        c = self.config
        if batch.strong is None:
            raise ValueError("lpld needs the strong view")
        with torch.no_grad():
            regions: Regions = self.teacher.regions(batch.weak)
        sure, doubtful = sorted_out(regions.detections, c.threshold, c.boxes)
        mined = self._mined(regions, sure)
        taught = Taught(batch.strong, sure, doubtful)
        self.guard.watch(taught, int(sum(rows.sum() for rows in mined)))
        features = self.student.features(batch.strong)
        losses = detection_loss.loss(
            self.student,
            batch.strong,
            sure,
            features=features,
            append=c.boxes.append,
            doubtful=doubtful,
            empty=c.boxes.empty,
            regression=c.boxes.regression,
        )
        if not losses and not any(bool(rows.any()) for rows in mined):
            return {}
        return losses | {"distil": self._distilled(batch, features, regions, mined)}

    def _mined(self, regions: Regions, sure: list[Boxes]) -> list[Bool[Tensor, " n"]]:
        """Which proposals of each image the teacher half sees."""
        c = self.config
        sizes = [len(part) for part in regions.proposals]
        limits = {"iou": c.iou, "confidence": c.confidence, "background": c.background}
        return [
            mine(logits, refined, boxes.boxes, **limits)
            for logits, refined, boxes in zip(
                regions.logits.split(sizes), regions.refined.split(sizes), sure, strict=True
            )
        ]

    def _distilled(
        self,
        batch: TargetBatch,
        features: Features,
        regions: Regions,
        mined: list[Bool[Tensor, " n"]],
    ) -> Tensor:
        """The mean over images of what their mined regions teach."""
        c = self.config
        if not any(bool(rows.any()) for rows in mined):
            return detection_loss.nothing(self.student)
        seen: Regions = self.student.regions(batch.strong, regions.proposals, features)
        sizes = [len(part) for part in regions.proposals]
        total = []
        for rows, student, teacher, ours, theirs in zip(
            mined,
            seen.logits.split(sizes),
            regions.logits.split(sizes),
            seen.features.split(sizes),
            regions.features.split(sizes),
            strict=True,
        ):
            weight = feature_distance(ours[rows], theirs[rows]) if c.by_distance else None
            total.append(distillation(student[rows], teacher[rows], weight))
        return c.weight * torch.stack(total).mean()

    def after_step(self, clock: Clock) -> None:
        """Move the teacher."""
        if self.config.interval == "step" or clock.ends_epoch:
            ema_update_(self.teacher, self.student, decay=self.config.decay, buffers="average")
        if clock.ends_epoch:
            self.guard.end_epoch()

    def pseudo_labels_left(self) -> float | None:
        """What the guard has counted."""
        return self.guard.left()

    def status(self) -> str:
        """How many boxes the teacher was sure of."""
        return self.guard.status()

    @property
    def adapted(self) -> nn.Module:
        """The teacher."""
        teacher: nn.Module = self.teacher
        return teacher


EXPORT = Lpld
