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

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field
from torch import nn

from sfda.building_blocks.ema import ema_update_, make_teacher
from sfda.building_blocks.norm import norms
from sfda.methods._base import Method, MethodConfig
from sfda.problems.detection.teaching import BoxTeaching
from sfda.problems.registry import problem_of
from sfda.refs import Share
from sfda.settings import Schedule
from sfda.types import Clock, Losses, TargetBatch, TargetInfo

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
    """Confident labels of an averaged teacher, for every problem: what the labels are, and how a
    student learns them, is the problem's.
    """

    idea = "confident labels of an averaged teacher, learnt on strong views"
    Config = MeanTeacherConfig
    views: ClassVar[Literal["none", "photometric", "geometric"]] = "photometric"
    mixes_batch: ClassVar[bool] = True  # where regions are cut
    config: MeanTeacherConfig

    def __init__(self, source: nn.Module, target: TargetInfo, config: MeanTeacherConfig) -> None:
        super().__init__(source, target, config)
        problem = problem_of(source)
        problem.prepare_student_(self.student, config)
        self.guard = problem.make_guard(target, source)
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
        problem = problem_of(self.student)
        taught = problem.teach(self.teacher, batch, self.config)
        if self.guard is not None:
            self.guard.watch(taught)
        return problem.learn(self.student, batch, taught, self.config)

    def after_step(self, clock: Clock) -> None:
        """Move the teacher."""
        if self.config.interval == "step" or clock.ends_epoch:
            buffers = "keep" if self.config.buffers == "own" else self.config.buffers
            ema_update_(self.teacher, self.student, decay=self.config.decay, buffers=buffers)
        if self.guard is not None and clock.ends_epoch:
            self.guard.end_epoch()

    def pseudo_labels_left(self) -> float | None:
        """What the guard has counted."""
        return None if self.guard is None else self.guard.left()

    def status(self) -> str:
        """What the guard says, such as how many boxes the teacher was sure of."""
        return "" if self.guard is None else self.guard.status()

    @property
    def adapted(self) -> nn.Module:
        """The teacher."""
        teacher: nn.Module = self.teacher
        return teacher


EXPORT = MeanTeacher
