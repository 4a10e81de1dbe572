"""Rows at random: what every query is measured against."""

from __future__ import annotations

import numpy as np

from sfda.queries._base import Pool, Query, TargetRows


class Random(Query):
    """A uniform draw without repeats."""

    idea = "at random: what every query is measured against"

    def _choose(self, pool: Pool, free: TargetRows, budget: int, seed: int) -> TargetRows:
        return np.random.default_rng(seed).permutation(free)[:budget]


EXPORT = Random
