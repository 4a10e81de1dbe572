"""What is known of images for a query: scores and a feature vector a row, whatever the problem."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


class Summary(NamedTuple):
    """What is known of some images of the target.

    `probs` are of the image, or the mean over its pixels, boxes or joints. `entropy` (nats, high
    where unsure) and `margin` (between the two likeliest, low where unsure) are means over the
    same. `residual` [B, K] times `features` spans BADGE's gradient: p - onehot of an image, the
    mean entropy of anything finer.
    """

    features: Float[Tensor, "B D"]
    probs: Float[Tensor, "B C"]
    entropy: Float[Tensor, " B"]
    margin: Float[Tensor, " B"]
    residual: Float[Tensor, "B K"]


def summarise(features: Float[Tensor, "B D *HW"], logits: Float[Tensor, "B C *HW"]) -> Summary:
    """The summary of a batch of images, or of maps of logits: means over pixels, and features
    averaged over theirs.
    """
    probs = logits.float().softmax(1)
    entropy = -torch.xlogy(probs, probs).sum(1)
    top = probs.topk(min(2, probs.shape[1]), dim=1).values
    margin = top[:, 0] - (top[:, 1] if top.shape[1] > 1 else 0)
    if logits.ndim == 2:
        residual = probs.clone()
        residual.scatter_add_(1, probs.argmax(1, keepdim=True), -torch.ones_like(probs[:, :1]))
        return Summary(features.float(), probs, entropy, margin, residual)
    over = tuple(range(2, logits.ndim))
    mean = entropy.flatten(1).mean(1)
    return Summary(
        features.float().mean(over), probs.mean(over), mean, margin.flatten(1).mean(1),
        mean[:, None],
    )  # fmt: skip
