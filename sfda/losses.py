"""Losses and terms of losses that two methods or more use; all in float32."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from sfda.precision import full_precision

EPS = 1e-5  # inside the logarithm of entropies, as in the released code of SHOT and its successors


@full_precision
def entropy(probs: Float[Tensor, "B C"]) -> Float[Tensor, " B"]:
    """Shannon entropy of every row in nats, with 1e-5 inside the logarithm.

    A one-hot row gives -1e-5, not 0 (classification specification, section 9.5).

    >>> entropy(torch.full((1, 4), 0.25))
    tensor([1.3863])
    """
    return -(probs * (probs + EPS).log()).sum(1)


@full_precision
def diversity(probs: Float[Tensor, "B C"]) -> Float[Tensor, ""]:
    """Negative entropy of the mean prediction, in [-log C, 0]: low when all classes are used.

    SHOT, arXiv:2002.08546, eq. 3.
    """
    mean = probs.mean(0)
    return (mean * (mean + EPS).log()).sum()


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
