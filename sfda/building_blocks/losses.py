"""Losses and terms of losses that two methods or more use; all in float32."""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from sfda.building_blocks.precision import full_precision
from sfda.types import UNSURE, Clock

ENTROPY_EPS = (
    1e-5  # inside the logarithm of entropies, as in the released code of SHOT and its successors
)


class ClassLogits(Protocol):
    """What a network says of images or pixels that have one class each."""

    @property
    def logits(self) -> Float[Tensor, "B C *HW"]: ...


@full_precision
def sure_cross_entropy(
    logits: Float[Tensor, "B C *HW"],
    targets: Int[Tensor, "B *HW"],  # noqa: UP037
    *,
    smoothing: float = 0.0,
    weights: Float[Tensor, " C"] | None = None,
) -> Float[Tensor, ""]:
    """Cross-entropy in nats against (1 - smoothing) onehot + smoothing / C, averaged.

    `weights` are one a class; the average is over rows or pixels whatever they weigh, as in AdaMI's
    code (torch divides by the sum of the weights). Targets that are UNSURE do not count; if all
    are, the loss is zero and still has a gradient.
    """
    total = F.cross_entropy(
        logits,
        targets,
        weight=weights,
        ignore_index=UNSURE,
        reduction="sum",
        label_smoothing=smoothing,
    )
    sure = (targets != UNSURE).float()
    # not `if nothing is sure`: reading the count would make every step wait for the device
    return total / sure.sum().clamp_min(torch.finfo(total.dtype).tiny)


@full_precision
def soft_cross_entropy(
    logits: Float[Tensor, "B C *HW"], targets: Float[Tensor, "B C *HW"], *, symmetric: bool = False
) -> Float[Tensor, ""]:
    """Cross-entropy in nats of predictions p against the distributions q of a teacher, averaged.

    One-sided, -sum q log p, as CoTTA (Wang et al., CVPR 2022, arXiv:2203.13591); or
    `symmetric`, half of that and half of -sum p log q, as its code for ImageNet. Targets that are
    all zero do not count; if all are, the loss is zero and still has a gradient.
    """
    sure = (targets.sum(1) > 0).to(logits.dtype)
    logs = logits.log_softmax(1)
    terms = -(targets * logs).sum(1)
    if symmetric:
        tiny = torch.finfo(targets.dtype).tiny
        terms = 0.5 * terms - 0.5 * (logs.exp() * targets.clamp_min(tiny).log()).sum(1)
    return (terms * sure).sum() / sure.sum().clamp_min(1)


@full_precision
def entropy(probs: Float[Tensor, "B C"]) -> Float[Tensor, " B"]:
    """Shannon entropy of every row in nats, with 1e-5 inside the logarithm.

    A one-hot row gives -1e-5, not 0 (docs/methods/classification.md, section 9, point 5).

    >>> entropy(torch.full((1, 4), 0.25))
    tensor([1.3863])
    """
    return -(probs * (probs + ENTROPY_EPS).log()).sum(1)


@full_precision
def diversity(probs: Float[Tensor, "B C"]) -> Float[Tensor, ""]:
    """Negative entropy of the mean prediction, in [-log C, 0]: low when all classes are used.

    SHOT, arXiv:2002.08546, eq. 3.
    """
    mean = probs.mean(0)
    return (mean * (mean + ENTROPY_EPS).log()).sum()


@full_precision
def neighbour_attraction(
    probs: Float[Tensor, "B C"], neighbours: Float[Tensor, "B K C"]
) -> Float[Tensor, ""]:
    """(1/B) sum_i sum_k sum_c q_ikc (ln q_ikc - p_ic), with 0 ln 0 = 0 and q the neighbours.

    Its gradient is that of -<q, p>; the constant sum q ln q is kept because the released code of
    AaD (arXiv:2205.04183), NRC and SF(DA)^2 reports it. No logarithm of p is missing.
    """
    agreement = torch.einsum("bkc,bc->", neighbours, probs)
    return (torch.xlogy(neighbours, neighbours).sum() - agreement) / len(probs)


def dispersion(clock: Clock, *, fade: float, batch_size: int) -> float:
    """Weight of the push of AaD and SF(DA)^2, (1 + 10 t)^-fade for the run's fraction t, from 0.

    The push sums over the batch without dividing by its size, so for batches other than the
    papers' 64 it is scaled by 63 / (B - 1).
    """
    return float((1 + 10 * clock.fraction) ** -fade) * 63 / (batch_size - 1)


@full_precision
def batch_agreement(probs: Float[Tensor, "B C"], *, power: int = 1) -> Float[Tensor, ""]:
    """(1/B) sum over pairs i != j of <p_i, p_j>^power; both factors take gradient.

    AaD takes the product itself, SF(DA)^2 (arXiv:2403.10834) its square.
    """
    together = (probs @ probs.T) ** power
    return (together.sum() - together.diagonal().sum()) / len(probs)
