"""Mean teacher for self-training (Tarvainen & Valpola, NeurIPS 2017, arXiv:1703.01780).

The teacher, an average of past students, labels the weak view where it is sure; the student learns
those labels on the strong view (FixMatch, arXiv:2001.07685, eq. 4). The teacher is deployed, so it
needs the batch-norm statistics of images as they come: those of the student are of strong views.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field
from torch import nn

from sfda.ema import ema_update_, make_teacher
from sfda.methods._base import Method, MethodConfig
from sfda.norm import batch_statistics
from sfda.problems.known import problem_of
from sfda.schedule import Schedule
from sfda.types import Clock, Losses, TargetBatch, TargetInfo


class MeanTeacherConfig(MethodConfig):
    """Decay: 0.99, the paper's value for the first steps; adaptation runs have few.

    The threshold is our own; FixMatch's 0.95 leaves few labels under a domain shift.
    """

    schedule: Schedule = Schedule(lr=1e-3)
    lr_scale: dict[str, float] = {"backbone": 0.1}
    decay: float = Field(0.99, ge=0, le=1)
    threshold: float = Field(0.8, ge=0, le=1)
    # batch-norm statistics of the teacher: its own, of the weak views it labels (as POST's, and
    # best on the built-in digits), or the student's averaged or copied, or the source's
    buffers: Literal["own", "average", "copy", "keep"] = "own"


class MeanTeacher(Method):
    """Confident labels of an averaged teacher, for every problem."""

    Config = MeanTeacherConfig
    problems: ClassVar[frozenset[str]] = frozenset({"classification"})
    views: ClassVar[Literal["none", "photometric", "geometric"]] = "photometric"
    config: MeanTeacherConfig

    def __init__(self, source: nn.Module, target: TargetInfo, config: MeanTeacherConfig) -> None:
        super().__init__(source, target, config)
        self.teacher = make_teacher(self.student)
        self.problem = problem_of(source)

    def losses(self, batch: TargetBatch, clock: Clock) -> Losses:
        """Supervised loss of the student on what the teacher is sure of; 0 if that is nothing."""
        if batch.strong is None:
            raise ValueError("mean_teacher needs the strong view")
        with batch_statistics(self.teacher, self.config.buffers == "own"):
            labels = self.problem.pseudo_labels(self.teacher, batch.weak, self.config.threshold)
        found: Losses = self.problem.loss(self.student, batch.strong, labels)
        return found

    def after_step(self, clock: Clock) -> None:
        """Move the teacher."""
        buffers = "keep" if self.config.buffers == "own" else self.config.buffers
        ema_update_(self.teacher, self.student, decay=self.config.decay, buffers=buffers)

    @property
    def adapted(self) -> nn.Module:
        """The teacher."""
        teacher: nn.Module = self.teacher
        return teacher


EXPORT = MeanTeacher
