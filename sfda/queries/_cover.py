"""Rows that lie far from each other: greedy k-centre and k-means++ over shards of features."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sfda.queries._base import Pool, Rows

CENTRES = 256  # labelled rows whose distances are taken at once
NEXT = 1024  # farthest rows among which the next of a cover are looked for


def k_centre(pool: Pool, free: Rows, budget: int, *, centres: Rows) -> Rows:
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


def _fold(
    pool: Pool, near: Float[Tensor, " N"], squares: Float[Tensor, " N"], centres: Rows
) -> None:
    """Let `near`, squared distances from the nearest centre, know of some more centres."""
    if not len(centres):
        return
    taken, own = pool.gather("features", centres), squares[torch.from_numpy(centres)]
    for first, part in pool.passes("features"):
        rows = slice(first, first + len(part))
        found = (own - 2 * part @ taken.T).amin(1) + squares[rows]
        near[rows] = torch.minimum(near[rows], found)


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
    found: list[int] = []
    while len(found) < min(most, len(rows)):
        best = int(left.argmax())
        if found and float(left[best]) <= bound:
            break
        found.append(int(rows[best]))
        away = own - 2 * features @ features[best] + own[best]
        left = torch.minimum(left, away)
        left[best] = -torch.inf
    return found


def _distances(
    pool: Pool, centre: Float[Tensor, " D"], squares: Float[Tensor, " N"]
) -> Float[Tensor, " N"]:
    """Squared distances of all rows to a point."""
    products = torch.cat([part @ centre for _, part in pool.passes("features")])
    return squares - 2 * products + centre.square().sum()


def plus_plus(pool: Pool, free: Rows, budget: int, *, seed: int) -> Rows:
    """k-means++ seeding over the products residual x feature (BADGE, Ash et al., ICLR 2020,
    arXiv:1906.03671, algorithm 1), which are never formed: <a x h, b x g> = <a, b> <h, g>.

    The first row has the largest norm, as in the authors' code; each further one is drawn with
    probability proportional to its squared distance from the nearest taken so far.
    """
    generator = np.random.default_rng(seed)
    norms = torch.cat(
        [
            a.square().sum(1) * h.square().sum(1)
            for (_, a), (_, h) in zip(pool.passes("residual"), pool.passes("features"), strict=True)
        ]
    ).double()
    barred = torch.ones(pool.size, dtype=torch.bool)
    barred[torch.from_numpy(free)] = False
    near = torch.full((pool.size,), torch.inf, dtype=torch.double)
    chosen = [int(norms.masked_fill(barred, -torch.inf).argmax())]
    while len(chosen) < budget:
        row = np.array(chosen[-1:])
        a, h = pool.gather("residual", row)[0], pool.gather("features", row)[0]
        products = torch.cat(
            [
                (x @ a) * (y @ h)
                for (_, x), (_, y) in zip(
                    pool.passes("residual"), pool.passes("features"), strict=True
                )
            ]
        ).double()
        near = torch.minimum(near, (norms + norms[chosen[-1]] - 2 * products).clamp_min(0))
        barred[chosen[-1]] = True
        weights = near.masked_fill(barred, 0).cumsum(0)
        if weights[-1] <= 0:  # all that is left equals something taken
            left = free[~np.isin(free, chosen)]
            chosen += left[: budget - len(chosen)].tolist()
            break
        place = torch.searchsorted(weights, generator.random() * weights[-1], right=True)
        chosen.append(int(place.clamp_max(pool.size - 1)))
    return np.array(chosen, dtype=np.int64)
