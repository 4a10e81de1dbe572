"""Rows with the smallest gap between the two likeliest classes (Scheffer et al., IDA 2001)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from sfda.queries._base import DiverseConfig, Pool, Query, Rows, lowest
from sfda.queries._cover import k_centre

FEW = {"diverse": 10}  # images with many parts are alike in their means


class Margin(Query):
    """The most wanted by margin; with `diverse` those of them that cover each other."""

    Config = DiverseConfig
    usual: ClassVar[Mapping[str, dict[str, Any]]] = {
        "segmentation": FEW, "detection": FEW, "pose": FEW
    }  # fmt: skip
    config: DiverseConfig

    def _choose(self, pool: Pool, free: Rows, budget: int, seed: int) -> Rows:
        wanted = lowest(pool.column("margin"), free, budget * self.config.diverse)
        if self.config.diverse == 1 or len(wanted) <= budget:
            return wanted
        return k_centre(pool, wanted, budget, centres=pool.labelled)


EXPORT = Margin
