"""From probabilities to pseudo-labels: averaged over views, kept where they are sure, mixed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from sfda.types import UNSURE, Images


def averaged(model: nn.Module, images: Images, scales: Sequence[float]) -> Float[Tensor, "B C H W"]:
    """Probabilities of every pixel, averaged over scales and, at each, the mirror image.

    As in CoTTA's segmentation (Wang et al., CVPR 2022, arXiv:2203.13591), which averages
    probabilities and undoes flips and sizes before. No gradient.
    """
    size = (images.shape[-2], images.shape[-1])
    total: Tensor | None = None
    with torch.no_grad():
        for scale in scales:
            view = images
            if scale != 1:
                scaled = [max(1, round(side * scale)) for side in size]
                view = F.interpolate(images, scaled, mode="bilinear", align_corners=False)
            for mirrored in (False, True):
                out: Any = model(view.flip(-1) if mirrored else view)
                probs = out.logits.softmax(1)
                probs = probs.flip(-1) if mirrored else probs
                if probs.shape[-2:] != size:
                    probs = F.interpolate(probs, size, mode="bilinear", align_corners=False)
                total = probs if total is None else total + probs
    assert total is not None
    return total / (2 * len(scales))


def sure(
    probs: Float[Tensor, "B C *HW"],
    threshold: float,
    *,
    by_class: bool,
    shown: Bool[Tensor, "B *HW"] | None = None,  # noqa: UP037
) -> Int[Tensor, "B *HW"]:  # noqa: UP037
    """The likeliest class where its probability reaches the threshold, else UNSURE.

    `by_class`: of each predicted class at least the better half is kept, as in SUMMIT's certainty
    filter (Simons et al., ICCV 2023, arXiv:2308.11880): the class's threshold is the smaller of
    `threshold` and the median of its probabilities here. What is not `shown` is UNSURE.
    """
    values, classes = probs.max(1)
    if shown is not None:
        values = values.where(shown, -1.0)
    if not by_class:
        return classes.where(values >= max(threshold, 0.0), UNSURE)
    limits = torch.full((probs.shape[1],), max(threshold, 0.0), device=probs.device)
    seen = values >= 0
    for c in classes[seen].unique().tolist():
        limits[c] = min(threshold, float(values[seen & (classes == c)].median()))
    return classes.where(values >= limits[classes], UNSURE)


def cut_and_mix(images: Images, labels: Tensor, share: float) -> tuple[Images, Tensor]:
    """A rectangle of every image and its labels replaced by that of another image of the batch.

    Labels are classes [B, H, W] or distributions [B, C, H, W]. `share` is the part of the image's
    area that is replaced (CutMix, arXiv:1905.04899). Where and by which is drawn from torch's
    generator.
    """
    height, width = labels.shape[-2:]
    tall, wide = (max(1, round(side * share**0.5)) for side in (height, width))
    top = int(torch.randint(height - tall + 1, ()))
    left = int(torch.randint(width - wide + 1, ()))
    other = torch.randperm(len(images), device=images.device)
    mixed, mixed_labels = images.clone(), labels.clone()
    rectangle = (slice(top, top + tall), slice(left, left + wide))
    mixed[..., *rectangle] = images[other][..., *rectangle]
    mixed_labels[..., *rectangle] = labels[other][..., *rectangle]
    return mixed, mixed_labels
