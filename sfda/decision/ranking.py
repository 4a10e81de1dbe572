"""Candidates in order without labels: epochs, settings, methods, interpolations, and the source.

Vetoes first; then the mean rank of the scores that have a say (docs/methods/decide.md, section 4):
`ensv`, agreement with the consensus of the candidates that met no veto, the source among them, its
members weighed by softmax(5 infomax); `nuclear_norm`; `agreement` between views. Of masks all go by
pixels; of boxes, joints and several labels an image there is no nuclear norm, and the consensus is
one that is matched. If the source wins, the answer is: keep the source.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from sfda.config import Config
from sfda.decision.evidence import (
    SOURCE_NAME,
    Look,
    Score,
    agreement_score,
    ensemble_scores,
    look_at_pool,
    nuclear_score,
)
from sfda.errors import NotFinite
from sfda.loading.opened import Opened
from sfda.refs import ModelSpec, Scores

RANK_DIGITS = 9  # of scores that are not the order of a sum


class Ranked(Config):
    """One candidate: its scores, the mean of its ranks (1 is best), or the vetoes it met."""

    name: str
    scores: Scores = {}
    mean_rank: float | None = None  # None: it met a veto
    vetoes: tuple[str, ...] = ()


class Ranking(Config):
    """Candidates, the best first, and after them those that met a veto."""

    candidates: tuple[Ranked, ...]

    @property
    def best(self) -> str:
        """The name of the best one."""
        return self.candidates[0].name

    @property
    def keeps_source(self) -> bool:
        """Whether nothing is better than the source."""
        return self.best == SOURCE_NAME

    @property
    def text(self) -> str:
        """One line."""
        if self.keeps_source:
            return "keep the source: no candidate ranks above it"
        best = self.candidates[0]
        scores = ", ".join(f"{name} {value:.4f}" for name, value in best.scores.items())
        return f"{best.name} ranks first of {len(self.candidates)} ({scores})"


def rank(
    looks: Mapping[str, Look],
    vetoes: Mapping[str, Collection[str]] | None = None,
    minimised: Collection[str] = (),
) -> Ranking:
    """The order of what looked at one pool, by name, the source under SOURCE_NAME.

    `vetoes` are those that a candidate met; the source, which is what remains, takes part whatever
    it is like. `minimised` are scores that some candidate's method minimises: they have no vote. Of
    equals the source comes first, then the order of `looks`. Raises ValueError without the source.
    """
    if SOURCE_NAME not in looks:
        raise ValueError("the source takes part in every ranking")
    against = {name: tuple(texts) for name, texts in (vetoes or {}).items() if texts}
    clean = {
        name: look for name, look in looks.items() if name == SOURCE_NAME or name not in against
    }
    table = {
        score: {name: own.value for name, own in scores.items()}
        for score, scores in _scores_of(clean).items()
        if score not in minimised
    }
    ranks = mean_ranks(table, list(clean))
    order = sorted(clean, key=lambda name: (ranks[name], name != SOURCE_NAME))
    ranked = [
        Ranked(
            name=name,
            scores={score: values[name] for score, values in table.items()},
            mean_rank=ranks[name],
        )
        for name in order
    ]
    out = [Ranked(name=name, vetoes=texts) for name, texts in against.items() if name not in clean]
    return Ranking(candidates=(*ranked, *out))


def _scores_of(looks: Mapping[str, Look]) -> dict[str, dict[str, Score]]:
    """Scores by their name and the candidate's; those that have nothing to say are missing."""
    norms = {name: nuclear_score(look) for name, look in looks.items()}
    scores = {
        "ensv": ensemble_scores(looks),
        "nuclear_norm": {name: own for name, own in norms.items() if own is not None},
        "agreement": {name: agreement_score(look) for name, look in looks.items()},
    }
    return {name: own for name, own in scores.items() if own}


def mean_ranks(table: Mapping[str, Scores], names: list[str]) -> dict[str, float]:
    """The mean over scores of each name's rank, 1 for the highest; equal scores share theirs. All
    the same where there is no score.

    >>> mean_ranks({"a": {"x": 0.5, "y": 0.5, "z": 0.1}}, ["x", "y", "z"])
    {'x': 1.5, 'y': 1.5, 'z': 3.0}
    """
    if not table:
        return dict.fromkeys(names, 1.0)
    from scipy.stats import rankdata  # slow to import

    ranks = [
        rankdata([-round(values[name], RANK_DIGITS) for name in names]) for values in table.values()
    ]
    return dict(zip(names, np.mean(ranks, axis=0).tolist(), strict=True))


class Contender(NamedTuple):
    """A candidate in hand: its network on the device, the pool as it wants it, its vetoes."""

    network: nn.Module
    spec: ModelSpec
    opened: Opened
    vetoes: tuple[str, ...] = ()


class Looked(NamedTuple):
    """Looks at a pool by candidate, and the vetoes that some of them met."""

    looks: dict[str, Look]
    vetoes: dict[str, tuple[str, ...]]


def look_at_all(contenders: Iterable[tuple[str, Contender]], device: torch.device) -> Looked:
    """Every contender's look at the pool, one after the other, so that an iterator need hold one
    network alone. One that met a veto is not looked at; one whose outputs are not finite meets one.
    """
    looks: dict[str, Look] = {}
    vetoes: dict[str, tuple[str, ...]] = {}
    for name, (network, spec, opened, against) in contenders:
        if against and name != SOURCE_NAME:
            vetoes[name] = against
            continue
        try:
            looks[name] = look_at_pool(network, spec, opened, device)
        except NotFinite as error:
            vetoes[name] = (f"its outputs are not finite ({error})",)
    return Looked(looks, vetoes)
