"""Rows that cover the target's features (Sener & Savarese, ICLR 2018, arXiv:1708.00489)."""

from __future__ import annotations

from sfda.queries._base import Pool, Query, TargetRows
from sfda.queries._k_centre import k_centre


class Coreset(Query):
    """Greedy k-centre around what is labelled already."""

    idea = "images that cover the target's features (k-centre)"

    def _choose(self, pool: Pool, free: TargetRows, budget: int, seed: int) -> TargetRows:
        return k_centre(pool, free, budget, centres=pool.labelled)


EXPORT = Coreset
