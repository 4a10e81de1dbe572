"""Mean teacher where every image, or pixel, has one of C classes: what both such problems share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sfda.building_blocks.losses import soft_cross_entropy, sure_cross_entropy
from sfda.building_blocks.norm import batch_statistics
from sfda.building_blocks.pseudo_labels import averaged, cut_and_mix, sure
from sfda.problems._teaching import Taught
from sfda.types import UNSURE, Images, Losses, TargetBatch


def teach_classes(teacher: Any, batch: TargetBatch, settings: Any) -> Taught:
    """Classes of the weak view, UNSURE where the teacher is not sure; or its probabilities, 0 where
    it is not. Of maps regions may be cut and mixed between the images of the strong view.
    """
    assert batch.strong is not None
    with batch_statistics(teacher, settings.buffers == "own"):
        labels = _labels(teacher, batch.weak, batch.shown, settings)
    strong = batch.strong
    if labels.ndim > 2 and float(torch.rand(())) < settings.cut:
        strong, labels = cut_and_mix(strong, labels, settings.cut_share)
    return Taught(strong, labels)


def learn_classes(student: Any, batch: TargetBatch, taught: Taught, settings: Any) -> Losses:
    """Cross-entropy with the classes, or with the teacher's probabilities."""
    logits: Tensor = student(taught.images).logits
    if settings.labels == "hard":
        return {"class": sure_cross_entropy(logits, taught.targets)}
    symmetric = settings.labels == "symmetric"
    return {"class": soft_cross_entropy(logits, taught.targets, symmetric=symmetric)}


@torch.no_grad()
def _labels(teacher: Any, images: Images, shown: Tensor | None, settings: Any) -> Tensor:
    probs: Tensor = (
        averaged(teacher, images, settings.ensemble)
        if settings.ensemble
        else teacher(images).logits.softmax(1)
    )
    labels = sure(probs, settings.threshold, by_class=settings.by_class, shown=shown)
    return labels if settings.labels == "hard" else probs * (labels != UNSURE).unsqueeze(1)
