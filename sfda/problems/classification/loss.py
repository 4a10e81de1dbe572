"""What a classifier learns by: cross-entropy, and labels out of its own outputs."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from sfda.building_blocks.losses import sure_cross_entropy
from sfda.building_blocks.pseudo_labels import sure
from sfda.problems.classification.network import ClassOutput
from sfda.types import Images, Losses


def loss(
    model: nn.Module,
    images: Images,
    targets: Int[Tensor, " B"],
    *,
    smoothing: float = 0.0,
    weights: Float[Tensor, " C"] | None = None,
) -> Losses:
    """Cross-entropy of the images, see `sure_cross_entropy`: unsure ones do not count."""
    out: ClassOutput = model(images)
    return {"class": sure_cross_entropy(out.logits, targets, smoothing=smoothing, weights=weights)}


@torch.no_grad()
def pseudo_labels(model: nn.Module, images: Images, threshold: float) -> Int[Tensor, " B"]:
    """The likeliest class where its probability reaches `threshold`, else unsure.

    The network stays in the mode it is in: put it in eval mode first.
    """
    out: ClassOutput = model(images)
    return sure(out.logits.softmax(1), threshold, by_class=False)
