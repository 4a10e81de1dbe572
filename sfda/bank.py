"""The memory bank: what the student last made of every target sample, and who is near to whom."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from sfda.precision import full_precision

TILE = 64 * 2**20  # numbers in one tile of similarities: 256 MB in float32


class MemoryBank(nn.Module):
    """One unit feature and one class distribution per target sample.

    Memory: 4 N (D + C) bytes for the bank, and at most 4 B min(N, 2^26 / B) bytes for the
    similarities of a search. Nothing copies the bank. A row is addressed by its index in the
    target set, never by its place in a batch.
    """

    features: Float[Tensor, "N D"]
    probs: Float[Tensor, "N C"]

    def __init__(self, size: int, dim: int, classes: int) -> None:
        super().__init__()
        self.register_buffer("features", torch.zeros(size, dim))
        self.register_buffer("probs", torch.zeros(size, classes))

    @torch.no_grad()
    @full_precision
    def update(
        self,
        index: Int[Tensor, " B"],
        features: Float[Tensor, "B D"],
        probs: Float[Tensor, "B C"],
    ) -> None:
        """Write rows. Features are brought to unit length; zero stays zero."""
        self.features[index] = F.normalize(features.float(), dim=1, eps=1e-12)
        self.probs[index] = probs.float()

    @torch.no_grad()
    @full_precision
    def nearest(self, features: Float[Tensor, "B D"], k: int) -> Int[Tensor, "B K"]:
        """Rows with the largest cosine similarity, best first."""
        return self._search(F.normalize(features.float(), dim=1, eps=1e-12), k, own=None)

    @torch.no_grad()
    @full_precision
    def neighbours(
        self, index: Int[Tensor, " B"], features: Float[Tensor, "B D"], k: int
    ) -> Int[Tensor, "B K"]:
        """The same without the sample's own row. ValueError where fewer than k others exist."""
        return self._search(F.normalize(features.float(), dim=1, eps=1e-12), k, own=index)

    def _search(
        self, unit: Float[Tensor, "B D"], k: int, *, own: Int[Tensor, " B"] | None
    ) -> Int[Tensor, "B K"]:
        size = len(self.features)
        if k > size - (own is not None):
            raise ValueError(f"asked for {k} neighbours among {size} samples")
        tile = max(k, TILE // max(1, len(unit)))
        best, rows = unit.new_empty(len(unit), 0), self.probs.new_empty(len(unit), 0).long()
        for start in range(0, size, tile):
            near = unit @ self.features[start : start + tile].T
            if own is not None:
                inside = (own >= start) & (own < start + near.shape[1])
                near[inside, own[inside] - start] = -torch.inf
            top = near.topk(min(k, near.shape[1]), dim=1)
            best = torch.cat([best, top.values], 1)
            rows = torch.cat([rows, top.indices + start], 1)
            best, kept = best.topk(min(k, best.shape[1]), dim=1)
            rows = rows.gather(1, kept)
        return rows
