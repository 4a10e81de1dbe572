"""Testing by betting: evidence from people's answers that holds at whatever moment one looks.

The mean of x over a finite pool, sampled without replacement, is tested by the capital of a gambler
(Waudby-Smith & Ramdas, arXiv:2010.09686; docs/methods/decide.md, section 3). For a budget declared
beforehand the final exact sign test is mixed in (Koning & van Meer, arXiv:2501.03982).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

LAMBDAS = np.arange(1, 40) / 40  # shares of the largest bet that cannot ruin: 0.025 to 0.975
ROUNDING = 1e-9
HALVINGS = 60  # of an interval at most 2 wide
SIGN_SHARE = 0.75  # of alpha, and of the mixture: the final sign test's
LEAST_POOL = 10  # units for each answer of the budget, below which nothing is mixed

PerAnswer = Float[np.ndarray, "*runs n"]


def evidence(x: ArrayLike, pool: int, m0: ArrayLike = 0.0) -> PerAnswer:
    """E after each answer against "the mean of x over the pool is at most m0"; inf is certainty.

    `x` [..., n] in [-1, 1] are answers in the order in which they were drawn from `pool` units
    without replacement; `m0` [...] may differ by run. If the mean is at most m0, E ever reaches
    1 / alpha in a share of at most alpha of all runs. ValueError for more answers than units, or
    for x out of range.
    """
    x = _checked(x, pool)
    before, left = _drawn(x, pool)
    m0 = np.asarray(m0, np.float64)[..., None]
    mean = (pool * m0 - before) / left  # of what is left, were the mean of all m0
    free = (mean < 1) & (1 + mean > ROUNDING)
    stake = np.divide(x - mean, 1 + mean, out=np.zeros(np.broadcast(x, mean).shape), where=free)
    total = np.zeros(stake.shape)
    with np.errstate(over="ignore"):
        for share in LAMBDAS:
            total += np.exp(np.cumsum(np.log1p(share * stake), axis=-1))
    certain = before + x - (left - 1) > pool * m0 + ROUNDING  # whatever the others will be
    return np.where(certain, np.inf, total / len(LAMBDAS))


def limits(x: ArrayLike, pool: int, alpha: float) -> tuple[float, float]:
    """Lower and upper limit of the mean of x over the pool, after all of `x` [n] were answered.

    Each is where E is 1 / alpha, so that both together hold in a share of 1 - 2 alpha of all runs,
    at every moment. A pool answered in full gives its mean, twice.
    """
    x = _checked(x, pool)
    if not x.size:
        return -1.0, 1.0
    total, left = float(x.sum()), pool - len(x)
    low, high = (total - left) / pool, (total + left) / pool
    return _bound(x, pool, alpha, low, high), -_bound(-x, pool, alpha, -high, -low)


def _bound(x: PerAnswer, pool: int, alpha: float, low: float, high: float) -> float:
    """The largest m0 between `low` and `high` that E speaks against; E falls where m0 rises."""

    def refuted(m0: float) -> bool:
        return float(evidence(x, pool, m0)[-1]) >= 1 / alpha

    if not low < high or not refuted(low):
        return low
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if refuted(middle) else (low, middle)
    return low


@lru_cache(maxsize=256)
def sign_test(budget: int, alpha: float) -> tuple[int, float]:
    """Critical value and size of the exact one-sided sign test on so many answers that decide.

    Its size is the largest that is at most 3/4 of alpha; 0 where the answers are too few for any.

    >>> critical, size = sign_test(40, 0.05)
    >>> critical, round(size, 4)
    (27, 0.0192)
    """
    from scipy.stats import binom  # slow to import

    tails = binom.sf(np.arange(-1, budget + 1), budget, 0.5)  # P(at least 0), ... (at least K + 1)
    critical = int(np.flatnonzero(tails <= SIGN_SHARE * alpha)[0])
    return critical, float(tails[critical])


def can_declare(pool: int, budget: int, alpha: float, m0: float = 0.0) -> bool:
    """Whether the final sign test may be mixed in, for x that is -1, 0 or 1."""
    return m0 == 0 and pool >= LEAST_POOL * budget and sign_test(budget, alpha)[1] > 0


def declared(x: ArrayLike, pool: int, budget: int, alpha: float) -> PerAnswer:
    """M after each answer: `evidence` against a mean of at most 0, with the final sign test on
    `budget` answers that decide mixed in.

    `x` [..., n] is -1, 0 or 1, and `can_declare` holds: ValueError otherwise.
    """
    x = _checked(x, pool)
    if not can_declare(pool, budget, alpha) or not np.isin(x, (-1, 0, 1)).all():
        raise ValueError(f"no budget of {budget} can be declared for {pool} units")
    size = sign_test(budget, alpha)[1]
    return (1 - SIGN_SHARE) * evidence(x, pool) + SIGN_SHARE / size * sign_hope(x, budget, alpha)


def sign_hope(x: ArrayLike, budget: int, alpha: float) -> PerAnswer:
    """After each answer: the chance that the final sign test succeeds, if all others are even.

    After `budget` answers other than 0 it keeps its value.
    """
    from scipy.stats import binom

    x = np.asarray(x, np.float64)
    counts = np.cumsum(x != 0, axis=-1) <= budget
    wins, losses = (np.cumsum((x == sign) & counts, axis=-1) for sign in (1, -1))
    critical, _ = sign_test(budget, alpha)
    chance: PerAnswer = binom.sf(critical - wins - 1, budget - wins - losses, 0.5)
    return chance


def rung_alpha(alpha: float, rung: int) -> float:
    """The level of a rung of the ladder, 0 the first: alpha / 2, alpha / 4 ..., all within alpha.

    >>> 1 / rung_alpha(0.05, 0)
    40.0
    """
    return float(alpha / 2 ** (rung + 1))


def _checked(x: ArrayLike, pool: int) -> PerAnswer:
    answers: np.ndarray[Any, np.dtype[np.float64]] = np.asarray(x, np.float64)
    if answers.shape[-1] > pool:
        raise ValueError(f"{answers.shape[-1]} answers from a pool of {pool} units")
    if not (np.abs(answers) <= 1).all():
        raise ValueError("answers are from -1 to 1")
    return answers


def _drawn(x: PerAnswer, pool: int) -> tuple[PerAnswer, PerAnswer]:
    """Before each answer: the sum of those before it, and how many units are left."""
    before = np.cumsum(x, axis=-1) - x
    return before, pool - np.arange(x.shape[-1], dtype=np.float64)
