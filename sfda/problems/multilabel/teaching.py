"""What mean teacher needs of a multi-label classifier."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sfda.building_blocks.norm import batch_statistics
from sfda.problems._teaching import Taught, TeacherSettings
from sfda.problems.multilabel.loss import sure_answers, sure_binary_cross_entropy
from sfda.types import UNSURE, Losses, TargetBatch


@torch.no_grad()
def teach(teacher: nn.Module, batch: TargetBatch, settings: TeacherSettings) -> Taught:
    """Of every class of the weak view yes, no, or UNSURE where neither reaches the threshold; or,
    where it is sure, the teacher's probability.
    """
    assert batch.strong is not None
    with batch_statistics(teacher, settings.buffers == "own"):
        probs: Tensor = teacher(batch.weak).logits.sigmoid()
    answers = sure_answers(probs, settings.threshold, by_class=settings.by_class)
    if settings.labels != "hard":
        answers = probs.where(answers != UNSURE, float(UNSURE))
    return Taught(batch.strong, answers)


def learn(
    student: nn.Module, batch: TargetBatch, taught: Taught, settings: TeacherSettings
) -> Losses:
    """Binary cross-entropy with the answers, or with the teacher's probabilities; `symmetric`: half
    of that and half of the teacher's against the student's.
    """
    logits: Tensor = student(taught.images).logits
    forward = sure_binary_cross_entropy(logits, taught.targets)
    if settings.labels != "symmetric":
        return {"classes": forward}
    sure = taught.targets != UNSURE
    own = logits.sigmoid().where(sure, float(UNSURE))
    backward = sure_binary_cross_entropy(taught.targets.where(sure, 0.5).logit(1e-6), own)
    return {"classes": 0.5 * forward + 0.5 * backward}
