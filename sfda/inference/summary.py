"""What is known of images for a query: scores and a feature vector a row, whatever the problem."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from sfda.building_blocks.boxes import Boxes

FLOOR = 0.1  # score below which a box says nothing


class Summary(NamedTuple):
    """What is known of some images of the target.

    `probs` are of the image, or the mean over its pixels, boxes or joints; the last of boxes and
    joints is "nothing there". `entropy` (nats, high where unsure) and `margin` (between the two
    likeliest, low where unsure) are means over the same. `residual` [B, K] times `features` spans
    BADGE's gradient: p - onehot of an image, the mean entropy of anything finer.
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


def summarise_boxes(
    features: Float[Tensor, "B D"], found: Sequence[Boxes], classes: int
) -> Summary:
    """The summary of a batch of images by the boxes found in them that score at least 0.1.

    A score s stands for the class against nothing: its entropy is that of (s, 1 - s), its margin
    |2 s - 1|, and an image's are the means over its boxes (the "average" of Brust et al.,
    arXiv:1809.09875, who also try sum and maximum). An image without a box is sure of nothing.
    """
    rows = []
    for one in found:
        kept = one.where(one.scores >= FLOOR)
        probs = features.new_zeros(max(1, len(kept.scores)), classes + 1)
        probs[:, -1] = 1
        if len(kept.scores):
            probs[:, -1] -= kept.scores
            probs.scatter_(1, kept.labels[:, None], kept.scores[:, None].to(probs))
        sure = 1 - probs[:, -1]
        both = torch.stack([sure, probs[:, -1]], 1)
        entropy = -torch.xlogy(both, both).sum(1)
        margin = (2 * sure - 1).abs()
        rows.append((probs.mean(0), entropy.mean(), margin.mean()))
    every, entropies, margins = (torch.stack(part) for part in zip(*rows, strict=True))
    return Summary(features.float(), every, entropies, margins, entropies[:, None])


def summarise_poses(
    features: Float[Tensor, "B D h w"], heatmaps: Float[Tensor, "B K H W"]
) -> Summary:
    """The summary of a batch of persons by how their heatmaps spread.

    A map's entropy is that of its positive part as a distribution over places; its margin the
    highest peak less the next one (several peaks: Liu and Ferrari, ICCV 2017). Means over joints.
    """
    maps = heatmaps.float().clamp(min=0)
    size = maps.shape[-1] * maps.shape[-2]
    total = maps.sum((2, 3))
    places = (maps / total.clamp(min=1e-12)[..., None, None]).flatten(2)
    places = torch.where((total > 0)[..., None], places, torch.full_like(places, 1 / size))
    entropy = -torch.xlogy(places, places).sum(-1).mean(1)
    peak = F.max_pool2d(maps, 3, stride=1, padding=1) == maps
    top = torch.where(peak, maps, 0.0).flatten(2).topk(2, dim=-1).values.clamp(max=1)
    sure = top[..., 0].mean(1)
    return Summary(
        features.float().mean((2, 3)), torch.stack([sure, 1 - sure], 1), entropy,
        (top[..., 0] - top[..., 1]).mean(1), entropy[:, None],
    )  # fmt: skip
