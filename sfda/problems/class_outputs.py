"""Where every image, or pixel, has one of C classes: what a mean teacher and validators ask of all
such problems.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sfda.building_blocks.losses import ClassLogits, soft_cross_entropy, sure_cross_entropy
from sfda.building_blocks.norm import batch_statistics
from sfda.building_blocks.pseudo_labels import averaged, cut_and_mix, sure
from sfda.measures.tally import Tally
from sfda.problems._teaching import Taught, TeacherSettings
from sfda.types import UNSURE, Images, Losses, TargetBatch

SCORED_PIXELS = 4096  # of one image that a score is taken over


def teach_classes(teacher: nn.Module, batch: TargetBatch, settings: TeacherSettings) -> Taught:
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


def learn_classes(
    student: nn.Module, batch: TargetBatch, taught: Taught, settings: TeacherSettings
) -> Losses:
    """Cross-entropy with the classes, or with the teacher's probabilities."""
    logits: Tensor = student(taught.images).logits
    if settings.labels == "hard":
        return {"class": sure_cross_entropy(logits, taught.targets)}
    symmetric = settings.labels == "symmetric"
    return {"class": soft_cross_entropy(logits, taught.targets, symmetric=symmetric)}


@torch.no_grad()
def _labels(
    teacher: nn.Module, images: Images, shown: Tensor | None, settings: TeacherSettings
) -> Tensor:
    probs: Tensor = (
        averaged(teacher, images, settings.ensemble)
        if settings.ensemble
        else teacher(images).logits.softmax(1)
    )
    labels = sure(probs, settings.threshold, by_class=settings.by_class, shown=shown)
    return labels if settings.labels == "hard" else probs * (labels != UNSURE).unsqueeze(1)


def rows_of(logits: Float[Tensor, "B C *HW"]) -> Float[Tensor, "M C"]:
    """Logits as rows: of images as they are, of maps one row a pixel.

    Of a map with more than 4,096 pixels a regular grid counts, of at most about as many:
    neighbours say much the same.
    """
    if logits.ndim == 2:
        return logits
    height, width = logits.shape[2:]
    stride = math.ceil(math.sqrt(height * width / SCORED_PIXELS))
    top, left = min(stride, height) // 2, min(stride, width) // 2
    thin = logits[..., top::stride, left::stride]
    return thin.permute(0, 2, 3, 1).reshape(-1, logits.shape[1])


def class_entropy(output: ClassLogits) -> tuple[float, int]:
    """Sum of the entropies of the softmax, and over how many images or pixels."""
    logits = rows_of(output.logits).double()
    return float(-(logits.softmax(1) * logits.log_softmax(1)).sum()), len(logits)


def class_agreement(
    weak: ClassLogits, strong: ClassLogits, classes: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """How many images or pixels each class has in the weak view, and how many of those in both."""
    count = weak.logits.shape[1]
    one, other = (rows_of(view.logits).argmax(1) for view in (weak, strong))
    yield one.bincount(minlength=count), one[one == other].bincount(minlength=count)


def tally_classes(output: ClassLogits) -> Tally:
    """Sums over the images, or the pixels, of a batch."""
    logits = rows_of(output.logits).double()
    answers = logits.argmax(1).bincount(minlength=logits.shape[1]).double()
    images = len(output.logits)
    return Tally(images, logits.softmax(1).sum(0), answers, float(len(logits)))
