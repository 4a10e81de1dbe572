"""Mean teacher for self-training (Tarvainen & Valpola, NeurIPS 2017, arXiv:1703.01780).

The teacher, an average of past students, labels the weak view where it is sure; the student learns
those labels on the strong view (FixMatch, arXiv:2001.07685, eq. 4). The teacher is deployed, so it
needs the batch-norm statistics of images as they come: those of the student are of strong views.
For segmentation the teacher's prediction may be averaged over mirrored and scaled views, and
labelled regions are cut and mixed between images (after CoTTA, arXiv:2203.13591, made offline).
CoTTA keeps the source's batch-norm statistics, here `student_norms="freeze", buffers="keep"`: on
the built-in scenes that learns next to nothing, so by default teacher and student use those of the
target. Views are the model's own: not cropped unless it sees tiles, and each strong one has its
colours changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

import torch
from pydantic import Field
from torch import Tensor, nn

from sfda.building_blocks.ema import ema_update_, make_teacher
from sfda.building_blocks.losses import soft_cross_entropy
from sfda.building_blocks.norm import batch_statistics, norms
from sfda.building_blocks.pseudo_labels import averaged, cut_and_mix, sure
from sfda.methods._base import Method, MethodConfig
from sfda.networks.detector import Detector, DetOutput
from sfda.problems.detection import loss as detection_loss
from sfda.problems.detection.teaching import BoxGuard, BoxTeaching, freeze_stem_, sorted_out
from sfda.problems.pose.loss import heatmap_consistency
from sfda.problems.pose.network import PoseNet
from sfda.problems.pose.teaching import student_maps, teacher_maps
from sfda.problems.registry import problem_of
from sfda.refs import Share
from sfda.settings import Schedule
from sfda.types import UNSURE, Clock, Images, Losses, TargetBatch, TargetInfo

Scales = tuple[Annotated[float, Field(gt=0, le=4)], ...]


class MeanTeacherConfig(MethodConfig):
    """Decay: 0.99, the paper's value for the first steps; adaptation runs have few.

    The threshold is our own; FixMatch's 0.95 leaves few labels under a domain shift.
    """

    schedule: Schedule = Schedule(lr=1e-3)
    lr_scale: dict[str, float] = {"backbone": 0.1}
    decay: Share = 0.99
    threshold: Share = 0.8
    # batch-norm statistics of the teacher: its own, of the weak views it labels (as POST's, and
    # best on the built-in digits), or the student's averaged or copied, or the source's
    buffers: Literal["own", "average", "copy", "keep"] = "own"
    student_norms: Literal["train", "freeze"] = "train"  # freeze: the source's statistics stay
    # what the student learns where the teacher is sure: its class, its probabilities, or, beside
    # those, also its own probabilities against the teacher's
    labels: Literal["hard", "soft", "symmetric"] = "hard"
    by_class: bool = False  # the better half of every predicted class is labelled, at the least
    ensemble: Scales = ()  # segmentation: the teacher's prediction is averaged over these scales
    cut: Share = 0.0  # segmentation: probability that regions of a batch are cut and mixed
    cut_share: Share = 0.25  # of the image's area
    interval: Literal["step", "epoch"] = "step"  # at whose end the teacher moves
    boxes: BoxTeaching = BoxTeaching()  # detection
    ratio: Share = 0.5  # pose: of the batch's joints, those with the lowest peaks, are not learnt


class MeanTeacher(Method):
    """Confident labels of an averaged teacher, for every problem."""

    Config = MeanTeacherConfig
    problems: ClassVar[frozenset[str]] = frozenset(
        {"classification", "segmentation", "detection", "pose"}
    )
    views: ClassVar[Literal["none", "photometric", "geometric"]] = "photometric"
    defaults_by_problem: ClassVar[Mapping[str, dict[str, Any]]] = {
        "segmentation": {
            "schedule": {
                "optimizer": "adamw",
                "lr": 1e-4,
                "weight_decay": 1e-2,
                "decay": "poly",
                "batch_size": 8,
                "epochs": 20,
            },
            "decay": 0.999,  # as CoTTA's
            "threshold": 0.9,
            "by_class": True,
            "ensemble": (1.0,),
            "cut": 0.5,
        },
        "detection": {  # the loop of LPLD (arXiv:2407.13524) without its distillation
            "schedule": {
                "lr": 3e-4,
                "nesterov": False,
                "weight_decay": 1e-4,
                "decay": "none",
                "batch_size": 1,
                "epochs": 10,
                "clip_norm": 10.0,
            },
            "decay": 0.75,
            "interval": "epoch",
            "threshold": 0.7,
            "buffers": "average",
        },
        "pose": {  # POST (arXiv:2308.13954) with consistency of predictions alone
            "schedule": {
                "optimizer": "adam",
                "lr": 1e-4,
                "weight_decay": 0.0,
                "decay": "none",
                "batch_size": 32,
                "drop_last": True,
                "epochs": 30,
            },
            "lr_scale": {"backbone": 1.0, "neck": 0.0, "head": 0.0},
            "decay": 0.999,
        },
    }
    config: MeanTeacherConfig

    def __init__(self, source: nn.Module, target: TargetInfo, config: MeanTeacherConfig) -> None:
        super().__init__(source, target, config)
        self.problem = problem_of(source)
        self.guard: BoxGuard | None = None
        if isinstance(source, Detector):
            freeze_stem_(self.student, config.boxes.freeze_stem)
            self.guard = BoxGuard(target, source.num_classes)
        self.teacher = make_teacher(self.student)

    def train(self, mode: bool = True) -> Self:
        """The student learns with its own batch statistics, unless they are frozen."""
        super().train(mode)
        if self.config.student_norms == "freeze":
            for layer in norms(self.student):
                layer.eval()
        return self

    def losses(self, batch: TargetBatch, clock: Clock) -> Losses:
        """Supervised loss of the student on what the teacher is sure of; 0 if that is nothing."""
        if batch.strong is None:
            raise ValueError("mean_teacher needs the strong view")
        if self.guard:
            return self._box_losses(batch, self.guard)
        if isinstance(self.student, PoseNet):
            teacher = teacher_maps(self.teacher, batch, self.config.ratio)
            maps = student_maps(self.student(batch.strong), batch, self.student.pairs)
            return {"prediction": heatmap_consistency(maps, teacher.maps, teacher.mask)}
        with batch_statistics(self.teacher, self.config.buffers == "own"):
            labels = self._labels(batch.weak, batch.shown)
        strong = batch.strong
        if labels.ndim > 2 and float(torch.rand(())) < self.config.cut:
            strong, labels = cut_and_mix(strong, labels, self.config.cut_share)
        if self.config.labels == "hard":
            return self.problem.loss(self.student, strong, labels)
        logits: Tensor = self.student(strong).logits
        symmetric = self.config.labels == "symmetric"
        return {"class": soft_cross_entropy(logits, labels, symmetric=symmetric)}

    def _box_losses(self, batch: TargetBatch, guard: BoxGuard) -> Losses:
        """The detector's own losses on boxes that the teacher is sure of."""
        c = self.config
        with torch.no_grad():
            output: DetOutput = self.teacher(batch.weak)
        sure, doubtful = sorted_out(output.boxes, c.threshold, c.boxes)
        guard.watch(sure)
        assert batch.strong is not None
        return detection_loss.loss(
            self.student,
            batch.strong,
            sure,
            append=c.boxes.append,
            doubtful=doubtful,
            empty=c.boxes.empty,
            regression=c.boxes.regression,
        )

    @torch.no_grad()
    def _labels(self, images: Images, shown: Tensor | None = None) -> Any:
        """Classes, UNSURE where the teacher is not sure; or probabilities, 0 where it is not."""
        c = self.config
        if c.labels == "hard" and not c.by_class and not c.ensemble and shown is None:
            return self.problem.pseudo_labels(self.teacher, images, c.threshold)
        probs: Tensor = (
            averaged(self.teacher, images, c.ensemble)
            if c.ensemble
            else self.teacher(images).logits.softmax(1)
        )
        labels = sure(probs, c.threshold, by_class=c.by_class, shown=shown)
        return labels if c.labels == "hard" else probs * (labels != UNSURE).unsqueeze(1)

    def after_step(self, clock: Clock) -> None:
        """Move the teacher."""
        if self.config.interval == "step" or clock.ends_epoch:
            buffers = "keep" if self.config.buffers == "own" else self.config.buffers
            ema_update_(self.teacher, self.student, decay=self.config.decay, buffers=buffers)
        if self.guard and clock.ends_epoch:
            self.guard.end_epoch()

    def status(self) -> str:
        """Of a detector: how many boxes the teacher was sure of."""
        return self.guard.status() if self.guard else ""

    @property
    def adapted(self) -> nn.Module:
        """The teacher."""
        teacher: nn.Module = self.teacher
        return teacher


EXPORT = MeanTeacher
