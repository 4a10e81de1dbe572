"""How many classes a target has, by how well as many clusters fit its features.

GLC (Qu et al., CVPR 2023, arXiv:2303.07110) takes the number that fits best; ours is taken where a
majority of draws agrees on it (docs/methods/guided.md, section 11).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from sfda.building_blocks.clustering import map_to_plane, silhouettes

COEFFICIENTS = (0.25, 0.5, 1.0, 2.0, 3.0)  # the authors'
FINER = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 2.5, 3.0)
DRAWS = 5  # random halves of the target, each of which has a say in the number of classes
MAJORITY = 4  # of them must speak for another number than the source's
CLEARLY = 0.05  # of a silhouette, by which it must be better, too
NEARLY_AS_GOOD = (
    0.02  # of a silhouette: in the median, so far apart are those of two halves of one target
)
SEED = 0  # of all clusterings: they are part of the method, not of a run's chance


def class_count_scores(
    features: Float[Tensor, "N D"], classes: int, rows: int
) -> Float[Tensor, " S"]:
    """How well as many clusters as each coefficient asks for fit the features: silhouettes.

    Computed on a plane (t-SNE) and on at most `rows` samples, drawn at random. Depends on the
    features and on scikit-learn's release, see `map_to_plane`.
    """
    if len(features) > rows:
        drawn = torch.randperm(len(features), generator=torch.Generator().manual_seed(SEED))[:rows]
        features = features[drawn.to(features.device)]
    counts = [max(2, math.floor(coefficient * classes)) for coefficient in COEFFICIENTS]
    return silhouettes(map_to_plane(features, seed=SEED), counts, seed=SEED)


def scores_of_halves(
    features: Float[Tensor, "N D"], classes: int, rows: int
) -> Float[Tensor, "R S"]:
    """The same by each coefficient of the finer grid, on each of several random halves."""
    generator = torch.Generator().manual_seed(SEED)
    counts = [max(2, math.floor(coefficient * classes)) for coefficient in FINER]
    half = min(rows, max(2, len(features) // 2))
    draws = []
    for _ in range(DRAWS):
        drawn = torch.randperm(len(features), generator=generator)[:half]
        plane = map_to_plane(features[drawn.to(features.device)], seed=SEED)
        draws.append(silhouettes(plane, counts, seed=SEED))
    return torch.stack(draws)


def coefficient_of_draws(draws: Float[Tensor, "R S"]) -> float:
    """The coefficient that four of five draws have the largest silhouette for, and that is better
    than 1 by 0.05 in the mean; else 1.
    """
    votes = F.one_hot(draws.argmax(1), len(FINER)).sum(0)
    best, one = int(votes.argmax()), FINER.index(1.0)
    mean = draws.mean(0)
    clear = votes[best] >= MAJORITY and mean[best] - mean[one] >= CLEARLY
    return FINER[best] if clear else 1.0


def best_coefficient(scores: list[float]) -> float:
    """The first coefficient with the largest score, or 1 where no score is above 0.

    >>> best_coefficient([0.1, 0.4, 0.4, 0.2, 0.0]), best_coefficient([0.0, 0.0, -0.1, 0.0, 0.0])
    (0.5, 1.0)
    """
    best = max(scores)
    return COEFFICIENTS[scores.index(best)] if best > 0 else 1.0


def rivals(scores: list[float], gamma: float) -> list[float]:
    """Other coefficients whose score is within 0.02 of that of the chosen one, the best first;
    none where no number of classes fits at all.

    >>> rivals([0.1, 0.40, 0.41, 0.2, 0.0], 1.0), rivals([0.0] * 5, 1.0)
    ([0.5], [])
    """
    best = scores[COEFFICIENTS.index(gamma)] if gamma in COEFFICIENTS else 0.0
    if best <= 0:
        return []
    near = [
        (score, other)
        for score, other in zip(scores, COEFFICIENTS, strict=True)
        if other != gamma and best - score <= NEARLY_AS_GOOD
    ]
    return [other for _, other in sorted(near, reverse=True)]


def words_on_count(
    coefficient: float | str, gamma: float, scores: list[float], votes: list[float]
) -> list[str]:
    """What an estimate says for a person: all its numbers, or what fits nearly as well."""
    if coefficient == "estimate" and any(scores):
        of_each = zip(FINER, scores, votes, strict=True)
        each = ", ".join(f"{c:g}: {score:.3f} ({draws:g})" for c, score, draws in of_each)
        return [f"silhouettes by gamma, with the draws for it of {DRAWS}: {each}"]
    if coefficient == "paper" and (others := rivals(scores, gamma)):
        listed = " and ".join(f"{other:g}" for other in others)
        return [f"gamma {listed} fits nearly as well: --set coefficient={others[0]:g} takes that"]
    return []
