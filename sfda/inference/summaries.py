"""A scan of the target summed up for queries, kept in shards on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from sfda.inference.predictions import SHARD, _Writer
from sfda.inference.summary import Summary, summarise, summarise_boxes, summarise_poses
from sfda.networks.detector import Detector
from sfda.types import Images, Scan

WHOLE = ("classification",)  # problems whose probabilities are of the image itself


def keep_summaries(
    scan: Scan, network: nn.Module, problem: str, folder: Path, size: int
) -> list[tuple[int, Summary]]:
    """Summaries of all rows below `folder`, memory-mapped. Tiles of one image are averaged.

    A further problem needs an entry in SUMMARIES: a function from its output to a `Summary`.
    """
    if isinstance(network, Detector):
        network = _Boxed(network)
    folder.mkdir(parents=True, exist_ok=True)
    writer = _Writer(folder, size)
    for rows, found in _whole_rows(scan, network, problem):
        columns = {n: p.float().cpu().numpy() for n, p in found._asdict().items()}
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
        found = SUMMARIES[problem](output)
        if len(np.unique(rows)) == len(rows) and not (parts and rows[0] == row) and len(rows) > 1:
            if parts:
                yield np.array([row]), _mean(parts)
                parts = []
            yield rows, found
            continue
        for n, one in enumerate(rows.tolist()):
            if parts and one != row:
                yield np.array([row]), _mean(parts)
                parts = []
            row = one
            parts.append(Summary(*(field[n : n + 1] for field in found)))
    if parts:
        yield np.array([row]), _mean(parts)


def _mean(parts: list[Summary]) -> Summary:
    return Summary(
        *(torch.cat(fields).mean(0, keepdim=True) for fields in zip(*parts, strict=True))
    )


class _Boxed(nn.Module):
    """A detector whose answer is the summary of its boxes, from one pass of its backbone."""

    def __init__(self, network: Detector) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Images) -> Summary:
        """Means of the backbone's maps, level by level, and what the boxes say."""
        maps = self.network.features(images)
        levels = list(maps.values()) if isinstance(maps, dict) else list(maps)
        pooled = torch.cat([level.float().mean((2, 3)) for level in levels], 1)
        if self.network.two_stage:
            found = self.network.regions(images, features=maps).detections
        else:
            found = self.network(images).found
        return summarise_boxes(pooled, found, self.network.num_classes)


SUMMARIES: dict[str, Callable[[Any], Summary]] = {
    "classification": lambda out: summarise(out.features, out.logits),
    "segmentation": lambda out: summarise(out.features, out.logits),
    "detection": lambda out: out,
    "pose": lambda out: summarise_poses(out.features, out.heatmaps),
}
