"""Summaries of images for a query: scores and a feature vector a row, whatever the problem; and
those of a whole scan, kept in shards on disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from sfda.building_blocks.boxes import Boxes
from sfda.inference.predictions import SHARD, ShardWriter
from sfda.networks.detector import Detector
from sfda.types import Images, Scan

WHOLE_IMAGE = ("classification",)  # problems whose probabilities are of the image itself
BOX_FLOOR = 0.1  # score below which a box says nothing


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
        features.float().mean(over),
        probs.mean(over),
        mean,
        margin.flatten(1).mean(1),
        mean[:, None],
    )


def summarise_boxes(
    features: Float[Tensor, "B D"], boxes: Sequence[Boxes], classes: int
) -> Summary:
    """The summary of a batch of images by the boxes found in them that score at least 0.1.

    A score s stands for the class against nothing: its entropy is that of (s, 1 - s), its margin
    |2 s - 1|, and an image's are the means over its boxes (the "average" of Brust et al.,
    arXiv:1809.09875, who also try sum and maximum). An image without a box is sure of nothing.
    """
    rows = []
    for one in boxes:
        scored = one.where(one.scores >= BOX_FLOOR)
        probs = features.new_zeros(max(1, len(scored.scores)), classes + 1)
        probs[:, -1] = 1
        if len(scored.scores):
            probs[:, -1] -= scored.scores
            probs.scatter_(1, scored.labels[:, None], scored.scores[:, None].to(probs))
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
    spread = (maps / total.clamp(min=1e-12)[..., None, None]).flatten(2)
    spread = torch.where((total > 0)[..., None], spread, torch.full_like(spread, 1 / size))
    entropy = -torch.xlogy(spread, spread).sum(-1).mean(1)
    peak = F.max_pool2d(maps, 3, stride=1, padding=1) == maps
    top = torch.where(peak, maps, 0.0).flatten(2).topk(2, dim=-1).values.clamp(max=1)
    sure = top[..., 0].mean(1)
    return Summary(
        features.float().mean((2, 3)),
        torch.stack([sure, 1 - sure], 1),
        entropy,
        (top[..., 0] - top[..., 1]).mean(1),
        entropy[:, None],
    )


SUMMARIES: dict[str, Callable[[Any], Summary]] = {
    "classification": lambda out: summarise(out.features, out.logits),
    "segmentation": lambda out: summarise(out.features, out.logits),
    "detection": lambda out: out,
    "pose": lambda out: summarise_poses(out.features, out.heatmaps),
}


def keep_summaries(
    scan: Scan, network: nn.Module, problem: str, folder: Path, size: int
) -> list[tuple[int, Summary]]:
    """Summaries of all rows below `folder`, memory-mapped. Tiles of one image are averaged.

    A further problem needs an entry in SUMMARIES: a function from its output to a `Summary`.
    """
    if isinstance(network, Detector):
        network = _BoxSummariser(network)
    folder.mkdir(parents=True, exist_ok=True)
    writer = ShardWriter(folder, size)
    for rows, summary in _whole_rows(scan, network, problem):
        columns = {n: p.float().cpu().numpy() for n, p in summary._asdict().items()}
        writer.write(rows, **columns)
    writer.close()
    shards = []
    for number in range(-(-size // SHARD)):
        load = [
            torch.from_numpy(np.load(folder / f"{name}-{number:05d}.npy", mmap_mode="c"))
            for name in Summary._fields
        ]
        shards.append((number * SHARD, Summary(*load)))
    return shards


def _whole_rows(
    scan: Scan, network: nn.Module, problem: str
) -> Iterator[tuple[np.ndarray, Summary]]:
    """Every row once: what comes tile by tile is held until its image is over."""
    row, parts = -1, [Summary(*[torch.empty(0)] * 5)][:0]
    for index, output in scan(network):
        rows = index.cpu().numpy()
        summary = SUMMARIES[problem](output)
        if len(np.unique(rows)) == len(rows) and not (parts and rows[0] == row) and len(rows) > 1:
            if parts:
                yield np.array([row]), _mean(parts)
                parts = []
            yield rows, summary
            continue
        for n, one in enumerate(rows.tolist()):
            if parts and one != row:
                yield np.array([row]), _mean(parts)
                parts = []
            row = one
            parts.append(Summary(*(field[n : n + 1] for field in summary)))
    if parts:
        yield np.array([row]), _mean(parts)


def _mean(parts: list[Summary]) -> Summary:
    return Summary(
        *(torch.cat(fields).mean(0, keepdim=True) for fields in zip(*parts, strict=True))
    )


class _BoxSummariser(nn.Module):
    """A detector whose output is the summary of its boxes, from one pass of its backbone."""

    def __init__(self, network: Detector) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Images) -> Summary:
        """Means of the backbone's maps, level by level, and what the boxes say."""
        maps = self.network.features(images)
        levels = list(maps.values()) if isinstance(maps, dict) else list(maps)
        pooled = torch.cat([level.float().mean((2, 3)) for level in levels], 1)
        if self.network.two_stage:
            boxes = self.network.regions(images, features=maps).detections
        else:
            boxes = self.network(images).boxes
        return summarise_boxes(pooled, boxes, self.network.num_classes)
