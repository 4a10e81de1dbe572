"""The contract that every query keeps, as functions that say what is broken."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from sfda.config import merged
from sfda.inference.summaries import Summary, summarise
from sfda.problems.registry import PROBLEMS
from sfda.queries._base import Pool, Query, QueryConfig, TargetRows
from sfda.testing.trial import require, require_kind, require_refused, run_checks

POOL_SIZE, POOL_CLASSES, POOL_WIDTH = 200, 5, 8
SHARD_ROWS = 37  # rows of a shard
POOL_BUDGET = 20
CHOICE_SEED = 4


def check_query(
    kind: type[Query],
    problem: str | None = None,
    *,
    settings: Mapping[str, Any] | None = None,
) -> None:
    """Try a query with the defaults of a problem, or of all that it serves, on drawn summaries.

    Raises AssertionError that says what is broken, and BadInput for settings it does not know.
    """
    require_query(kind)
    problems = sorted(kind.problems) if problem is None else [problem]
    for name in problems:
        require(name in kind.problems, f"{kind.__name__} is not for {name}: see its `problems`")
        asking = Asking(kind, name, settings or {})
        run_checks(f"{kind.__name__} for {name}", QUERY_CHECKS, asking)


def require_query(kind: type[Query]) -> None:
    """What a class says of itself is there and has a meaning."""
    name = require_kind(kind, Query, QueryConfig)
    own = kind._choose is not Query._choose or kind.choose is not Query.choose
    require(own, f"{name} defines no `_choose`")


@dataclass(frozen=True)
class Asking:
    """A query, and a pool of drawn summaries of which every third row is labelled."""

    kind: type[Query]
    problem: str
    settings: Mapping[str, Any]

    def query(self, **settings: object) -> Query:
        """It, with the defaults of the problem. Raises BadInput for settings it does not know."""
        inputs = merged(merged(self.kind.defaults_for(self.problem), dict(self.settings)), settings)
        return self.kind(self.kind.Config.from_settings(inputs))

    def pool(self, cut: int = SHARD_ROWS) -> Pool:
        """The summaries in shards of `cut` rows: of images, or of maps where the problem's are."""
        generator = torch.Generator().manual_seed(0)
        whole = PROBLEMS[self.problem].whole_image
        shape = () if whole else (4, 4)
        logits = 3 * torch.randn(POOL_SIZE, POOL_CLASSES, *shape, generator=generator)
        features = torch.randn(POOL_SIZE, POOL_WIDTH, *shape, generator=generator)
        summary = summarise(features, logits)
        starts = range(0, POOL_SIZE, cut)
        shards = [
            (start, Summary(*(part[start : start + cut] for part in summary))) for start in starts
        ]
        return Pool(shards, np.arange(0, POOL_SIZE, 3, dtype=np.int64), whole=whole)

    def rows(self, budget: int = POOL_BUDGET, cut: int = SHARD_ROWS) -> TargetRows:
        """What it chooses, under one seed."""
        return self.query().choose(self.pool(cut), budget, seed=CHOICE_SEED)


def it_keeps_to_its_budget_and_to_what_is_unlabelled(asking: Asking) -> None:
    """As many rows as may be asked for, no row twice, no labelled one."""
    rows = asking.rows()
    require(
        isinstance(rows, np.ndarray) and rows.dtype.kind in "iu" and rows.ndim == 1,
        f"`choose` gives {type(rows).__name__}, not a vector of row numbers",
    )
    require(len(rows) == POOL_BUDGET, f"of a budget of {POOL_BUDGET} it chose {len(rows)}")
    require(len(set(rows.tolist())) == len(rows), "a row is chosen twice")
    labelled = sorted({*rows.tolist()} & {*asking.pool().labelled.tolist()})
    require(not labelled, f"it chose rows that have labels: {labelled[:5]}")


def one_seed_gives_one_choice(asking: Asking) -> None:
    """Asked twice."""
    same = asking.rows().tolist() == asking.rows().tolist()
    require(same, "under one seed it chose other rows the second time")


def shards_do_not_count(asking: Asking) -> None:
    """A pool in one piece is the same target."""
    same = asking.rows().tolist() == asking.rows(cut=POOL_SIZE).tolist()
    require(same, "the same pool in one piece, and other rows are chosen")


def a_budget_beyond_the_target_takes_all_that_is_free(asking: Asking) -> None:
    """And one of nothing takes nothing."""
    rest = asking.rows(50 * POOL_SIZE)
    free = asking.pool().free.tolist()
    require(sorted(rest.tolist()) == free, f"of {len(free)} free rows it chose {len(rest)}")
    require(len(asking.rows(0)) == 0, "of a budget of 0 it chose some")


def unknown_query_settings_are_refused(asking: Asking) -> None:
    """A typo is an error at the first line."""
    require_refused(asking.query, {"thresold": 0.5}, "thresold")


QUERY_CHECKS: tuple[Callable[[Asking], None], ...] = (
    it_keeps_to_its_budget_and_to_what_is_unlabelled,
    one_seed_gives_one_choice,
    shards_do_not_count,
    a_budget_beyond_the_target_takes_all_that_is_free,
    unknown_query_settings_are_refused,
)
