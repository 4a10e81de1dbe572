"""Covariances of the classes' features, kept up from batch to batch, and two losses on them.

Both losses are those of SF(DA)^2 (Hwang et al., ICLR 2024, arXiv:2403.10834), in forms that are
equal to the paper's and need neither a [C, C, D, D] nor a [B, C, D, D] tensor.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sfda.building_blocks.precision import full_precision

LOSS_CHUNK = 2**21  # numbers in one [b, C, C] tensor of `augmented_loss`: 8 MB in float32
TINY = 1e-12  # keeps the cosine of a zero covariance at 0


class Present(NamedTuple):
    """The classes of a batch. Covariances and products carry the gradient of the batch's part.

    Of P = min(B, C) classes some may have no sample: so the shape never depends on what the batch
    holds, and no device is waited for. Those are as they were and pass no gradient.
    """

    classes: Int[Tensor, " P"]
    class_row: Int[Tensor, " B"]  # where each sample's class stands in `classes`
    covariances: Float[Tensor, "P D D"]
    products: Float[Tensor, "P C"]  # with all classes' covariances, which are held fixed


class ClassCovariances(nn.Module):
    """Mean and covariance of every class over all batches seen, a batch weighing what it counts.

    Memory: 4 C (D^2 + D + C) bytes, updated in place; a step takes about 12 P D^2 more.
    """

    covariances: Float[Tensor, "C D D"]
    means: Float[Tensor, "C D"]
    counts: Int[Tensor, " C"]
    products: Float[Tensor, "C C"]

    def __init__(self, classes: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("covariances", torch.zeros(classes, dim, dim))
        self.register_buffer("means", torch.zeros(classes, dim))
        self.register_buffer("counts", torch.zeros(classes, dtype=torch.long))
        self.register_buffer("products", torch.zeros(classes, classes))  # of covariances

    @full_precision
    def update(self, features: Float[Tensor, "B D"], labels: Int[Tensor, " B"]) -> Present:
        """Take a batch in; of the result only what this batch adds has a gradient.

        With w = n / (n + A) for n new and A earlier samples of a class, batch mean u and batch
        covariance V: S <- (1 - w) S + w V + w (1 - w) (m - u)(m - u)^T, m <- (1 - w) m + w u.
        """
        features = features.to(self.means.dtype)
        everywhere = torch.zeros_like(self.counts).index_add_(0, labels, torch.ones_like(labels))
        classes = everywhere.topk(min(labels.numel(), everywhere.numel())).indices
        new, before = everywhere[classes].to(features), self.counts[classes].to(features)
        member = (labels == classes[:, None]).to(features)
        means = member @ features / new.clamp_min(1)[:, None]
        weight = new / (new + before).clamp_min(1)
        with torch.no_grad():
            old = (1 - weight)[:, None, None] * self.covariances[classes]
        share = (weight / new.clamp_min(1))[:, None] * member
        spread = share.sqrt()[..., None] * (features - means[:, None])
        jump = (weight * (1 - weight)).sqrt()[:, None] * (self.means[classes] - means)
        rows = torch.cat([spread, jump[:, None]], 1)
        covariances = torch.baddbmm(old, rows.mT, rows)
        with torch.no_grad():
            self.covariances[classes] = covariances
            self.means[classes] = torch.lerp(self.means[classes], means, weight[:, None])
            self.counts += everywhere
        # against the buffer just written: all later steps start from it, so nothing drifts
        products = covariances.flatten(1) @ self.covariances.flatten(1).T
        with torch.no_grad():
            self.products[classes] = products
            self.products[:, classes] = products.T
        return Present(classes, member.argmax(0), covariances, products)

    @full_precision
    def disentanglement(
        self, present: Present, affinity: Float[Tensor, "C C"]
    ) -> Float[Tensor, ""]:
        """FD: -1/2 sum over pairs of classes of affinity times (1 - cosine of covariances).

        Negative; the lower, the more the covariances of classes with affinity differ. `affinity`
        is symmetric with a zero diagonal. Directly after `update`.
        """
        norms = self.products.diagonal().sqrt()
        cosines = self.products / (norms[:, None] * norms + TINY)
        # every pair stands twice in the sum, so one side's gradient is half of it: hence no 1/2
        own = torch.linalg.vector_norm(present.covariances.flatten(1), dim=1)
        left = present.products / (own[:, None] * norms + TINY)
        pull = (affinity[present.classes] * left).sum()
        value = (affinity * (cosines - 1)).sum() / 2
        loss: Tensor = value + pull - pull.detach()
        return loss


@full_precision
def augmented_loss(
    logits: Float[Tensor, "B C"],
    weight: Float[Tensor, "C D"],
    present: Present,
    *,
    strength: float,
) -> Float[Tensor, " B"]:
    """IFA: 2 sum_c [ln sum_j exp(l_j + strength / 2 (w_j - w_c)^T S (w_j - w_c)) - l_c] a sample.

    The bound of the expected loss for every class c, in nats, were the sample's features drawn
    from a Gaussian with `strength` times its class's covariance S; at least 0. `weight` is the
    classifier's. Too many samples for one chunk are taken in several, and again for the gradient.
    """
    # only differences of rows matter: centred ones lose fewer digits to cancellation
    weight = (weight - weight.mean(0)).to(present.covariances.dtype)
    size = max(1, LOSS_CHUNK // logits.shape[1] ** 2)
    if len(logits) <= size:
        return _augmented(logits, weight, present.covariances, present.class_row, strength)
    chunks = [
        checkpoint(
            _augmented,
            part,
            weight,
            present.covariances,
            class_row,
            strength,
            use_reentrant=False,
            preserve_rng_state=False,
        )
        for part, class_row in zip(logits.split(size), present.class_row.split(size), strict=True)
    ]
    return torch.cat(chunks)


def _augmented(
    logits: Float[Tensor, "B C"],
    weight: Float[Tensor, "C D"],
    covariances: Float[Tensor, "P D D"],
    class_row: Int[Tensor, " B"],
    strength: float,
) -> Float[Tensor, " B"]:
    if len(covariances) > len(logits):  # fewer samples than classes: one form a sample is cheaper
        covariances, class_row = (
            covariances[class_row],
            torch.arange(len(class_row), device=class_row.device),
        )
    forms = strength * weight @ (covariances @ weight.T)  # of w_c and w_j, for every class
    halves = forms.diagonal(dim1=1, dim2=2)[class_row] / 2
    exponents = (logits + halves)[:, None, :] - forms[class_row]
    return 2 * (exponents.logsumexp(2) + halves - logits).sum(1)
