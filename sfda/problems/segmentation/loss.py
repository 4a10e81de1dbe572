"""What a segmenter learns by: cross-entropy of pixels, and labels out of its own outputs."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from sfda.building_blocks.losses import sure_cross_entropy
from sfda.building_blocks.pseudo_labels import sure
from sfda.problems.segmentation.network import SegOutput
from sfda.types import Images, Losses


def loss(
    model: nn.Module,
    images: Images,
    targets: Int[Tensor, "B H W"],
    *,
    smoothing: float = 0.0,
    weights: Float[Tensor, " C"] | None = None,
) -> Losses:
    """Cross-entropy of the pixels, see `sure_cross_entropy`: unsure ones do not count."""
    out: SegOutput = model(images)
    return {"class": sure_cross_entropy(out.logits, targets, smoothing=smoothing, weights=weights)}


@torch.no_grad()
def pseudo_labels(model: nn.Module, images: Images, threshold: float) -> Int[Tensor, "B H W"]:
    """The likeliest class of a pixel where its probability reaches `threshold`, else unsure.

    The network stays in the mode it is in: put it in eval mode first.
    """
    out: SegOutput = model(images)
    return sure(out.logits.softmax(1), threshold, by_class=False)
