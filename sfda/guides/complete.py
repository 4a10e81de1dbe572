"""A guide's table made complete by what the source model says: temperature, and classes or logits
that the guide itself has not (docs/methods/guided.md, section 1.5).
"""

from __future__ import annotations

from typing import Literal

from jaxtyping import Float
from torch import Tensor

from sfda.guides.centroids import CENTROID_TEMPERATURE, centroid_cosines, soft_centroids
from sfda.guides.table import GuideTable
from sfda.types import Guide

Temperature = float | Literal["match"]
LEAST_PROBABILITY = 1e-8


def complete_guide(
    table: GuideTable,
    source: Float[Tensor, "N C"],
    temperature: Temperature,
    digest: str = "",
    centroids: Float[Tensor, "C G1"] | None = None,
) -> Guide:
    """The table as methods take it; `source` are the untouched source model's logits of its rows.

    An encoder without answers answers by the nearest centroid of the source's probabilities; by
    these `centroids`, where they come from other rows. A class that the guide cannot name keeps
    the source's probability, and those that it can name share the rest.
    """
    logits, derived = table.logits, table.logits is None
    if logits is None:
        assert table.features is not None, "a guide has logits or features"
        if centroids is None:
            centroids = soft_centroids(table.features, source.softmax(1))
        logits = centroid_cosines(table.features, centroids) / CENTROID_TEMPERATURE
    logits = scaled_like(logits, source, temperature, table.covers)
    if not table.covers.all():
        logits = _with_uncovered(logits, source.softmax(1), table)
    return Guide(
        digest=digest,
        logits=logits.float(),
        answered=table.answered,
        features=table.features,
        text=table.text,
        derived=derived,
    )


def scaled_like(
    logits: Float[Tensor, "N C"],
    source: Float[Tensor, "N C"],
    temperature: Temperature,
    covers: Tensor,
) -> Float[Tensor, "N C"]:
    """Divided by a number, or, for "match", row by row brought to the spread of the source's logits
    over the classes that are covered (sample deviation, floor 1e-6; arXiv:2405.02954).
    """
    if temperature != "match":
        return logits / temperature
    if int(covers.sum()) < 2:
        return logits
    ratio = source[:, covers].std(1, keepdim=True)
    return logits * ratio / logits[:, covers].std(1, keepdim=True).clamp_min(1e-6)


def _with_uncovered(
    logits: Float[Tensor, "N C"], source: Float[Tensor, "N C"], table: GuideTable
) -> Float[Tensor, "N C"]:
    shares = source.clone()
    rest = 1 - source[:, ~table.covers].sum(1, keepdim=True)
    shares[:, table.covers] = rest * logits[:, table.covers].softmax(1)
    return shares.clamp_min(LEAST_PROBABILITY).log()
