"""What every query is: a choice of rows out of summaries of the target, within a budget.

A problem needs one function, `summarise`, from a network's output to a `Summary`: image-level
scores and a feature vector a row. All queries work on summaries, so they serve every problem.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import numpy as np
import torch
from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor, nn

from sfda.config import Config
from sfda.inference.summaries import Summary
from sfda.problems.registry import PROBLEMS, ProblemsOfNetworks

TargetRows = np.ndarray[Any, np.dtype[np.int64]]  # [b], indices of the target set


@dataclass(frozen=True)
class Before:
    """What the last query's model said of the same rows; NaN where it said nothing of a row."""

    probs: Float[Tensor, "N C"]
    margin: Float[Tensor, " N"]


@dataclass(frozen=True)
class Pool:
    """The whole target in shards, each (first row, summary), and the rows that have labels.

    Shards may be memory maps: a query passes over them and keeps a few numbers a row.
    """

    shards: Sequence[tuple[int, Summary]]
    labelled: TargetRows
    before: Before | None = None
    whole: bool = True  # whether `probs` are of the image itself and not means over its parts

    @property
    def size(self) -> int:
        """N, labelled rows included."""
        start, last = self.shards[-1]
        return start + len(last.entropy)

    @property
    def free(self) -> TargetRows:
        """Rows that may be asked for, in order."""
        mask = np.ones(self.size, dtype=bool)
        mask[self.labelled] = False
        rows: TargetRows = np.flatnonzero(mask).astype(np.int64)
        return rows

    def column(self, name: str) -> Tensor:
        """One number a row, of all rows: `entropy` or `margin`."""
        return torch.cat([getattr(shard, name).float() for _, shard in self.shards])

    def gather(self, name: str, rows: TargetRows) -> Tensor:
        """One field of some rows, in their order."""
        out: Tensor | None = None
        for start, shard in self.shards:
            field = getattr(shard, name)
            inside = np.flatnonzero((rows >= start) & (rows < start + len(field)))
            if out is None:
                out = field.new_empty(len(rows), *field.shape[1:])
            out[inside] = field[torch.from_numpy(rows[inside] - start)]
        assert out is not None
        return out.float()

    def passes(self, name: str) -> Iterator[tuple[int, Tensor]]:
        """(first row, field) shard by shard."""
        for start, shard in self.shards:
            yield start, getattr(shard, name).float()


class QueryConfig(Config):
    """Settings of all queries."""


class DiverseConfig(QueryConfig):
    """`diverse` n > 1: of the n times budget most wanted rows those that cover each other best
    (two stages, as Zhdanov, arXiv:1901.05954, with a k-centre cover for its clusters).
    """

    diverse: PositiveInt = 1


class Query:
    """Chooses rows; deterministic under a seed, never a labelled row, never above the budget."""

    idea: ClassVar[str] = ""  # which rows it chooses, in one clause, for tables
    Config: ClassVar[type[QueryConfig]] = QueryConfig
    networks: ClassVar[tuple[type[nn.Module], ...]] = (nn.Module,)
    """Classes of networks whose targets it can choose from."""
    problems: ClassVar[frozenset[str]] = cast("frozenset[str]", ProblemsOfNetworks())
    """Problems that it serves: by default those of `networks`."""

    @classmethod
    def defaults_for(cls, problem: str) -> dict[str, Any]:
        """Settings that stand in for the defaults in a problem."""
        own = dict(PROBLEMS[problem].settings.get("query", {}))
        return {name: value for name, value in own.items() if name in cls.Config.model_fields}

    def __init__(self, config: QueryConfig) -> None:
        self.config = config

    def choose(self, pool: Pool, budget: int, *, seed: int = 0) -> TargetRows:
        """At most `budget` rows, the most wanted first; fewer where fewer are unlabelled."""
        free = pool.free
        budget = min(budget, len(free))
        if budget <= 0:
            return np.empty(0, dtype=np.int64)
        return self._choose(pool, free, budget, seed)

    def _choose(self, pool: Pool, free: TargetRows, budget: int, seed: int) -> TargetRows:
        raise NotImplementedError(f"{type(self).__name__} chooses nothing")


def lowest(scores: Float[Tensor, " N"], rows: TargetRows, count: int) -> TargetRows:
    """Those of `rows` with the lowest scores, in order; of equals the first row."""
    order = scores[torch.from_numpy(rows)].sort(stable=True).indices
    chosen: TargetRows = rows[order[:count].numpy()]
    return chosen
