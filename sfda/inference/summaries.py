"""Summaries of images for a query: scores and a feature vector a row, whatever the problem; and
those of a whole scan, kept in shards on disk.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from sfda.inference.predictions import SHARD, ShardWriter
from sfda.problems.registry import PROBLEMS
from sfda.types import Scan


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


def keep_summaries(
    scan: Scan, network: nn.Module, problem: str, folder: Path, size: int
) -> list[tuple[int, Summary]]:
    """Summaries of all rows below `folder`, memory-mapped. Tiles of one image are averaged."""
    network = PROBLEMS[problem].summarised(network)
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
        summary = PROBLEMS[problem].summarise(output)
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
