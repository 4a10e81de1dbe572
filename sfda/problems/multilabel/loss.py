"""What a multi-label classifier learns by: binary cross-entropy, and labels out of its outputs."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from sfda.building_blocks.precision import full_precision
from sfda.problems.multilabel.network import MultilabelOutput
from sfda.types import UNSURE, Images, Losses


def loss(
    model: nn.Module,
    images: Images,
    targets: Float[Tensor, "B C"],
    *,
    smoothing: float = 0.0,
    weights: Float[Tensor, " C"] | None = None,
) -> Losses:
    """Binary cross-entropy of the images, see `sure_binary_cross_entropy`."""
    out: MultilabelOutput = model(images)
    smooth = torch.where(targets == UNSURE, targets, targets * (1 - smoothing) + smoothing / 2)
    return {"classes": sure_binary_cross_entropy(out.logits, smooth, weights=weights)}


@full_precision
def sure_binary_cross_entropy(
    logits: Float[Tensor, "B C"],
    targets: Float[Tensor, "B C"],
    *,
    weights: Float[Tensor, " C"] | None = None,
) -> Float[Tensor, ""]:
    """Binary cross-entropy in nats of sigmoid(logits) against probabilities of yes, averaged.

    `weights` are one a class; the average is over answers whatever they weigh. Targets that are
    UNSURE do not count; if all are, the loss is zero and still has a gradient.
    """
    sure = targets != UNSURE
    terms = F.binary_cross_entropy_with_logits(
        logits, targets.where(sure, 0.0).to(logits.dtype), weight=weights, reduction="none"
    )
    # not `if nothing is sure`: reading the count would make every step wait for the device
    count = sure.sum().to(terms.dtype)
    return (terms * sure).sum() / count.clamp_min(torch.finfo(terms.dtype).tiny)


@torch.no_grad()
def pseudo_labels(model: nn.Module, images: Images, threshold: float) -> Float[Tensor, "B C"]:
    """Sure answers, see `sure_answers`.

    The network stays in the mode it is in: put it in eval mode first.
    """
    out: MultilabelOutput = model(images)
    return sure_answers(out.logits.sigmoid(), threshold)


def sure_answers(
    probs: Float[Tensor, "B C"], threshold: float, *, by_class: bool = False
) -> Float[Tensor, "B C"]:
    """1 where a probability of yes reaches `threshold`, 0 where one of no does, UNSURE between.

    `by_class`: of the yes and of the no of each class at least the surer half is labelled: their
    threshold is the smaller of `threshold` and the median of their probabilities here.

    >>> sure_answers(torch.tensor([[0.9, 0.5, 0.2]]), 0.8)
    tensor([[   1., -100.,    0.]])
    """
    yes = probs >= 0.5
    certainty = torch.where(yes, probs, 1 - probs)
    limits = torch.full_like(probs, threshold)
    if by_class:
        for answer in (yes, ~yes):
            median = _median(certainty, answer).clamp(max=threshold)
            limits = torch.where(answer, median, limits)
    # one part in a million: 1 - 0.2 is not quite 0.8
    return yes.to(probs.dtype).where(certainty >= limits - 1e-6, float(UNSURE))


def _median(values: Float[Tensor, "B C"], mask: Bool[Tensor, "B C"]) -> Float[Tensor, " C"]:
    """The lower median of the values of each column that are in the mask; 1 where none is."""
    out: Tensor = values.where(mask, torch.nan).nanmedian(0).values
    return out.nan_to_num(1.0)
