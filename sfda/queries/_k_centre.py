"""Rows that lie far from each other: greedy k-centre and k-means++ over shards of features."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sfda.queries._base import Pool, TargetRows, lowest

CENTRES = 256  # labelled rows whose distances are taken at once
NEXT = 1024  # farthest rows among which the next of a cover are looked for
SHARE = 8  # all distances are brought up to date after so large a part of the rows taken,
FRESH_ROWS = 32  # at most so many
REFUSALS = 64  # draws refused before they are


def k_centre(pool: Pool, free: TargetRows, budget: int, *, centres: TargetRows) -> TargetRows:
    """Greedy k-centre (Sener & Savarese, ICLR 2018, arXiv:1708.00489, algorithm 1).

    Each row taken is the one of `free` farthest from `centres` and all taken before, in Euclidean
    distance; without centres the first is the row nearest to the mean. Memory: some numbers a row.
    """
    squares = torch.cat([part.square().sum(1) for _, part in pool.passes("features")])
    near = torch.full((pool.size,), torch.inf)
    for start in range(0, len(centres), CENTRES):
        _fold(pool, near, squares, centres[start : start + CENTRES])
    barred = torch.ones(pool.size, dtype=torch.bool)
    barred[torch.from_numpy(free)] = False
    chosen: list[int] = []
    if not len(centres):
        mean = torch.stack([part.sum(0) for _, part in pool.passes("features")]).sum(0) / pool.size
        far = _distances(pool, mean, squares).masked_fill(barred, torch.inf)
        chosen.append(int(far.argmin()))
    folded = 0
    while len(chosen) < budget:
        _fold(pool, near, squares, np.array(chosen[folded:], dtype=np.int64))
        folded = len(chosen)
        barred[chosen] = True
        chosen += _farthest(pool, near.masked_fill(barred, -torch.inf), squares, budget - folded)
    return np.array(chosen, dtype=np.int64)


def lowest_apart(
    pool: Pool, scores: Float[Tensor, " N"], free: TargetRows, budget: int, *, diverse: int
) -> TargetRows:
    """Of the `diverse` times budget rows with the lowest scores those that cover each other."""
    candidates = lowest(scores, free, budget * diverse)
    if diverse == 1 or len(candidates) <= budget:
        return candidates
    return k_centre(pool, candidates, budget, centres=pool.labelled)


def _fold(
    pool: Pool, near: Float[Tensor, " N"], squares: Float[Tensor, " N"], centres: TargetRows
) -> None:
    """Let `near`, squared distances from the nearest centre, know of some more centres."""
    if not len(centres):
        return
    taken, own = pool.gather("features", centres), squares[torch.from_numpy(centres)]
    for first, part in pool.passes("features"):
        rows = slice(first, first + len(part))
        squared = (own - 2 * part @ taken.T).amin(1) + squares[rows]
        near[rows] = torch.minimum(near[rows], squared)


def _farthest(
    pool: Pool, near: Float[Tensor, " N"], squares: Float[Tensor, " N"], most: int
) -> list[int]:
    """The next rows of the greedy cover, at most `most` and at least one, without a pass.

    Distances only shrink as rows are taken. So as long as the farthest of the NEXT rows that were
    farthest is still farther than all others were, it is the farthest of all.
    """
    top = near.topk(min(NEXT, len(near)))
    bound = float(top.values[-1]) if len(near) > NEXT else -torch.inf
    rows = top.indices.sort().values
    rows = rows[near[rows] > -torch.inf]
    features, own = pool.gather("features", rows.numpy()), squares[rows]
    left = near[rows].clone()
    chosen: list[int] = []
    while len(chosen) < min(most, len(rows)):
        best = int(left.argmax())
        if chosen and float(left[best]) <= bound:
            break
        chosen.append(int(rows[best]))
        away = own - 2 * features @ features[best] + own[best]
        left = torch.minimum(left, away)
        left[best] = -torch.inf
    return chosen


def _distances(
    pool: Pool, centre: Float[Tensor, " D"], squares: Float[Tensor, " N"]
) -> Float[Tensor, " N"]:
    """Squared distances of all rows to a point."""
    products = torch.cat([part @ centre for _, part in pool.passes("features")])
    return squares - 2 * products + centre.square().sum()


def plus_plus(pool: Pool, free: TargetRows, budget: int, *, seed: int) -> TargetRows:
    """k-means++ seeding over the products residual x feature (BADGE, Ash et al., ICLR 2020,
    arXiv:1906.03671, algorithm 1), which are never formed: <a x h, b x g> = <a, b> <h, g>.

    The first row has the largest norm, as in the authors' code; each further one is drawn with
    probability proportional to its squared distance from the nearest taken so far. Distances are
    brought up to date for many rows taken at once; until then a row is drawn by the old, larger
    one and kept with the probability new by old, which is the same draw.
    """
    generator = np.random.default_rng(seed)
    norms = torch.cat([n.square().sum(1) * m.square().sum(1) for _, n, m in _factors(pool)])
    barred = torch.ones(pool.size, dtype=torch.bool)
    barred[torch.from_numpy(free)] = False
    near = torch.full((pool.size,), torch.inf, dtype=torch.double)
    chosen = [int(norms.masked_fill(barred, -torch.inf).argmax())]
    fresh, weights, refused = _Taken(pool, norms, chosen), near, 0
    while len(chosen) < budget:
        if len(fresh.rows) >= min(max(1, len(chosen) // SHARE), FRESH_ROWS) or refused == REFUSALS:
            for first, a, h in _factors(pool) if fresh.rows else ():
                rows = slice(first, first + len(a))
                near[rows] = torch.minimum(near[rows], fresh.distances(a, h, norms[rows]))
            barred[chosen] = True
            weights = near.masked_fill(barred, 0).cumsum(0)
            fresh, refused = _Taken(pool, norms, []), 0
            if weights[-1] <= 0:  # all that is left equals something taken
                left = free[~np.isin(free, chosen)]
                chosen += left[: budget - len(chosen)].tolist()
                break
        position = torch.searchsorted(weights, generator.random() * weights[-1], right=True)
        row = int(position.clamp_max(pool.size - 1))
        one = _Taken(pool, norms, [row])
        now = float(fresh.distances(one.residual, one.feature, one.norms)) if fresh.rows else np.inf
        if generator.random() * float(near[row]) < min(now, float(near[row])):
            chosen.append(row)
            fresh.add(one)
        else:
            refused += 1
    return np.array(chosen, dtype=np.int64)


class _Taken:
    """Rows taken, as factors of their products."""

    def __init__(self, pool: Pool, norms: Float[Tensor, " N"], rows: list[int]) -> None:
        self.rows = list(rows)
        index = np.array(rows, dtype=np.int64)
        self.residual, self.feature = (pool.gather(f, index) for f in ("residual", "features"))
        self.norms = norms[torch.from_numpy(index)]

    def add(self, more: _Taken) -> None:
        """These rows too."""
        self.rows += more.rows
        self.residual = torch.cat([self.residual, more.residual])
        self.feature = torch.cat([self.feature, more.feature])
        self.norms = torch.cat([self.norms, more.norms])

    def distances(self, a: Tensor, h: Tensor, norms: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Squared distances of products to the nearest of these."""
        products = ((a @ self.residual.T) * (h @ self.feature.T)).double()
        squared = norms.double()[:, None] + self.norms.double() - 2 * products
        return squared.amin(1).clamp_min(0)


def _factors(pool: Pool) -> Iterator[tuple[int, Tensor, Tensor]]:
    """(first row, residuals, features) shard by shard."""
    both = zip(pool.passes("residual"), pool.passes("features"), strict=True)
    for (first, a), (_, h) in both:
        yield first, a, h
