"""The memory bank: what the student last made of every target sample, and who is near to whom."""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any, Self

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from sfda.building_blocks.precision import full_precision
from sfda.errors import BadInput, NotFinite

SIMILARITY_TILE = 4 * 2**20  # numbers in one tile of similarities: 16 MB in float32
GROUP = 64  # bank rows of a tile that stand or fall by their largest similarity
FEWEST_INDEXED = 64**2  # below it an index saves nothing, and its cells would be too few to train


class MemoryBank(nn.Module):
    """One unit feature and one class distribution per target sample.

    Memory: 4 N (D + C) bytes for the bank, and at most 4 B min(N, 2^22 / B) bytes for the
    similarities of a search (a 64th part more for their groups). Nothing copies the bank.

    With `approximate`, from FEW rows on, `index_` adds N (D + 8) bytes of main memory (eight bits
    a number), up to twice that since its lists grow by doubling; while it builds, some 100 MB more,
    and 4 N D if the bank is on a GPU. A search then takes 32 B D (k + 1) bytes for its candidates'
    rows, and time that grows with N^(3/4) instead of N.

    A row is addressed by its index in the target set, never by its place in a batch.
    """

    features: Float[Tensor, "N D"]
    probs: Float[Tensor, "N C"]

    def __init__(self, size: int, dim: int, classes: int, *, approximate: bool = False) -> None:
        super().__init__()
        self.register_buffer("features", torch.zeros(size, dim))
        self.register_buffer("probs", torch.zeros(size, classes))
        self.approximate = approximate
        self._index: Index | None = None  # no part of the state: every epoch builds it anew
        if approximate:
            load_faiss()  # refuse before a scan is spent

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
    def index_(self) -> None:
        """Build the index of an approximate bank from its rows; nothing for an exact one.

        Called at the start of each epoch, once the rows are filled. Rows written later stay in the
        index as they were: they are found by their old place and ranked by their new one.
        """
        if self.approximate:
            self._index = Index(self.features) if len(self.features) >= FEWEST_INDEXED else None

    @torch.no_grad()
    @full_precision
    def nearest(self, features: Float[Tensor, "B D"], k: int) -> Int[Tensor, "B K"]:
        """Rows with the largest cosine similarity, best first."""
        return self._search(F.normalize(features.float(), dim=1, eps=1e-12), k)

    @torch.no_grad()
    @full_precision
    def neighbours(
        self, index: Int[Tensor, " B"], features: Float[Tensor, "B D"], k: int
    ) -> Int[Tensor, "B K"]:
        """The same without the sample's own row. ValueError where fewer than k others exist."""
        if k > len(self.features) - 1:
            raise ValueError(f"asked for {k} neighbours among {len(self.features)} samples")
        rows = self._search(F.normalize(features.float(), dim=1, eps=1e-12), k + 1)
        own_last = (rows == index[:, None]).byte().argsort(dim=1, stable=True)
        return rows.gather(1, own_last)[:, :k]

    def _search(self, unit: Float[Tensor, "B D"], k: int) -> Int[Tensor, "B K"]:
        if k > len(self.features):
            raise ValueError(f"asked for {k} neighbours among {len(self.features)} samples")
        if self._index is None:
            return self._exact(unit, k)
        candidates = self._index.candidates(unit, 8 * k)
        rows = self._rank(unit, candidates.to(unit.device), k)
        if lacking := ((candidates >= 0).sum(1) < k).nonzero().flatten().tolist():
            rows[lacking] = self._exact(unit[lacking], k)
        return rows

    def _exact(self, unit: Float[Tensor, "B D"], k: int) -> Int[Tensor, "B K"]:
        tile = max(k, SIMILARITY_TILE // max(1, len(unit)))
        best, rows = unit.new_empty(len(unit), 0), unit.new_empty(len(unit), 0, dtype=torch.long)
        for start in range(0, len(self.features), tile):
            # this way round the product is faster, and so are the maxima of its groups; it has no
            # name here, so that one tile is gone before the next is made
            values, near = largest(self.features[start : start + tile] @ unit.T, k)
            best, rows = torch.cat([best, values], 1), torch.cat([rows, near + start], 1)
            best, columns = best.topk(min(k, best.shape[1]), dim=1)
            rows = rows.gather(1, columns)
        return rows

    def _rank(
        self, unit: Float[Tensor, "B D"], candidates: Int[Tensor, "B M"], k: int
    ) -> Int[Tensor, "B K"]:
        """The k best of these rows as the bank has them now; a row of -1 comes last."""
        near = torch.bmm(self.features[candidates.clamp_min(0)], unit[:, :, None])[:, :, 0]
        return candidates.gather(
            1, near.masked_fill(candidates < 0, -torch.inf).topk(k, dim=1).indices
        )


def largest(near: Float[Tensor, "T B"], k: int) -> tuple[Float[Tensor, "B K"], Int[Tensor, "B K"]]:
    """The k largest numbers of every column, or all of fewer, and their rows; best first.

    The k largest lie in the k groups of rows whose maxima are largest, so that only those groups
    are sorted: the maxima cost one pass where sorting the whole column costs several.
    """
    groups = len(near) // GROUP
    if groups <= 2 * k:
        values, rows = near.T.topk(min(k, len(near)), dim=1)
        return values, rows
    peaks = near[: groups * GROUP].unflatten(0, (groups, GROUP)).amax(1).T
    inside = torch.arange(GROUP, device=near.device)
    rows = (peaks.topk(k, dim=1).indices[:, :, None] * GROUP + inside).flatten(1)
    rest = torch.arange(groups * GROUP, len(near), device=near.device)
    rows = torch.cat([rows, rest.expand(len(rows), -1)], 1)
    values, columns = near.T.gather(1, rows).topk(k, dim=1)
    return values, rows.gather(1, columns)


class Index:
    """An inverted file of unit features by inner product, on the CPU; never changed once built.

    sqrt(N) cells, of which a search looks into 1.5 N^(1/4); a number is kept in eight bits. The
    cells come from 64 rows each, by k-means with a fixed seed: same rows, same index.
    """

    def __init__(self, features: Float[Tensor, "N D"]) -> None:
        faiss = load_faiss()
        if not features.sum().isfinite():
            raise NotFinite("the features in the memory bank are not finite numbers")
        cells = math.isqrt(len(features))
        kind = f"IVF{cells},SQ8"
        self.file: Any = faiss.index_factory(features.shape[1], kind, faiss.METRIC_INNER_PRODUCT)
        self.file.cp.max_points_per_centroid = 64
        self.file.nprobe = round(1.5 * cells**0.5)
        rows = features.cpu().numpy()
        self.file.train(rows)
        self.file.add(rows)

    def candidates(self, unit: Float[Tensor, "B D"], count: int) -> Int[Tensor, "B M"]:
        """Up to `count` rows that may be nearest, filled up with -1; on the CPU."""
        _, rows = self.file.search(unit.cpu().numpy(), count)
        return torch.from_numpy(rows)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self


def load_faiss() -> ModuleType:
    """The module faiss, which only an approximate search needs. Raises BadInput without it."""
    try:
        import faiss
    except ImportError as error:
        raise BadInput(
            "an approximate search needs faiss, which is not installed: `pip install faiss-cpu`, "
            "or set search to exact"
        ) from error
    return faiss
