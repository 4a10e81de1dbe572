"""Rows with the highest entropy (mean over pixels, boxes or joints) (Wang & Shang, IJCNN 2014)."""

from __future__ import annotations

from sfda.queries._base import DiverseConfig, Pool, Query, TargetRows
from sfda.queries._k_centre import lowest_apart


class EntropyQuery(Query):
    """The most wanted by entropy; with `diverse` those of them that cover each other."""

    idea = "the highest entropy"
    Config = DiverseConfig
    config: DiverseConfig

    def _choose(self, pool: Pool, free: TargetRows, budget: int, seed: int) -> TargetRows:
        scores = -pool.column("entropy")
        return lowest_apart(pool, scores, free, budget, diverse=self.config.diverse)


EXPORT = EntropyQuery
