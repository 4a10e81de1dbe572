"""Rows with the smallest gap between the two likeliest classes (Scheffer et al., IDA 2001)."""

from __future__ import annotations

from sfda.queries._base import DiverseConfig, Pool, Query, TargetRows
from sfda.queries._k_centre import lowest_apart


class Margin(Query):
    """The most wanted by margin; with `diverse` those of them that cover each other."""

    idea = "the smallest gap between the two likeliest classes"
    Config = DiverseConfig
    config: DiverseConfig

    def _choose(self, pool: Pool, free: TargetRows, budget: int, seed: int) -> TargetRows:
        scores = pool.column("margin")
        return lowest_apart(pool, scores, free, budget, diverse=self.config.diverse)


EXPORT = Margin
