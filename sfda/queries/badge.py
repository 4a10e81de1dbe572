"""Rows with large and unlike gradients of the last layer (BADGE, Ash et al., ICLR 2020,
arXiv:1906.03671); for images with many parts, their feature times their mean entropy.
"""

from __future__ import annotations

from sfda.queries._base import Pool, Query, TargetRows
from sfda.queries._k_centre import plus_plus


class Badge(Query):
    """k-means++ over (p - onehot) x feature."""

    idea = "large and unlike gradients of the last layer"

    def _choose(self, pool: Pool, free: TargetRows, budget: int, seed: int) -> TargetRows:
        return plus_plus(pool, free, budget, seed=seed)


EXPORT = Badge
