"""Surest: ask about what the model is surest of, to find where it is wrong and does not know."""

from __future__ import annotations

from sfda.queries._base import Pool, Query, TargetRows, lowest


class Surest(Query):
    """Rows of the lowest entropy."""

    def _choose(self, pool: Pool, free: TargetRows, budget: int, seed: int) -> TargetRows:
        return lowest(pool.column("entropy"), free, budget)
