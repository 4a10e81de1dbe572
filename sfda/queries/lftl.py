"""Contrastive active sampling of LFTL ("Learn from the Learnt", Lyu et al., ECCV 2024,
arXiv:2407.18899), by the released code.

A margin that is small, and does not grow from one model to the next, is wanted; classes that
rule among the surest samples are not. The code contrasts probabilities, the paper their
logarithms: `space`. Of images with many parts (no part of the paper) the mean margins stand for the
image's own, and the class is the likeliest of its mean probabilities.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor

from sfda.errors import BadInput
from sfda.queries._base import Pool, Query, QueryConfig, TargetRows, lowest


class LftlQueryConfig(QueryConfig):
    """Defaults: the released code's for VisDA-C."""

    contrast: NonNegativeFloat = 0.03  # lambda_cd
    balance: NonNegativeFloat = 0.1  # lambda_cb; 0 leaves the margins as they are
    surest: PositiveInt = 500  # kappa; 100 on Office-31
    space: Literal["prob", "log"] = "prob"


class LftlQuery(Query):
    """Small contrasted margins, fewer of the classes that are sure already."""

    idea = (
        "a margin that is small and does not grow from one model to the next, classes kept in "
        "balance"
    )
    Config = LftlQueryConfig
    config: LftlQueryConfig

    def _choose(self, pool: Pool, free: TargetRows, budget: int, seed: int) -> TargetRows:
        rows = torch.from_numpy(free)
        score = torch.full((pool.size,), torch.inf)
        score[rows] = self.scores(pool)[rows]
        return lowest(score, free, budget)

    def scores(self, pool: Pool) -> Float[Tensor, " N"]:
        """The criterion of every row, low where a label is wanted; labelled rows take no part in
        its scale.
        """
        if pool.before is None:
            margin = pool.column("margin") if self.config.space == "prob" else self._margins(pool)
        else:
            margin = self._margins(pool)
        labels = torch.cat([part.argmax(1) for _, part in pool.passes("probs")])
        if not self.config.balance:
            return margin
        free = torch.from_numpy(pool.free)
        sure = free[margin[free].sort(descending=True, stable=True).indices[: self.config.surest]]
        counts = labels[sure].bincount(minlength=int(labels.max()) + 1).float()
        scaled = margin / margin[free].max()
        return scaled + self.config.balance * (counts / counts.max())[labels]

    def _margins(self, pool: Pool) -> Float[Tensor, " N"]:
        """Top two of p + lambda (p - p of the last query); rows that are new have no contrast."""
        margins = []
        before, c = pool.before, self.config
        for start, probs in pool.passes("probs"):
            rows = slice(start, start + len(probs))
            if before is not None and before.probs.shape[1] != probs.shape[1]:
                raise BadInput(
                    f"the last query's model had {before.probs.shape[1]} classes, this one has "
                    f"{probs.shape[1]}: leave out --before"
                )
            if not pool.whole:
                now = pool.column("margin")[rows]
                old = now if before is None else before.margin[rows].float()
                margins.append(now + c.contrast * torch.where(old.isnan(), 0.0, now - old))
                continue
            now = probs.clamp_min(1e-12).log() if c.space == "log" else probs
            if before is not None:
                last = before.probs[rows].float()
                last = last.clamp_min(1e-12).log() if c.space == "log" else last
                now = now + c.contrast * torch.where(last.isnan(), 0.0, now - last)
            top = now.topk(2, dim=1).values
            margins.append(top[:, 0] - top[:, 1])
        return torch.cat(margins)


EXPORT = LftlQuery
