"""The audit's statistics: how often it errs, and how many answers a gain costs.

Pools of changed units are made with as many better, worse and equal ones as a setting says, and
answered in random order, looked at after every answer. Nulls have no gain, or one of exactly the
margin. No data are needed. docs/methods/decide.md, sections 3 and 7, has what is to be reached.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from sfda.decision.betting import declared, evidence

ALPHA, RUNS, AT_ONCE = 0.05, 10_000, 500
NULL_POOLS, TIES = (20, 40, 100, 400, 4000), (0.0, 0.2, 0.5)
MARGINS = ((40, 21, 19), (100, 40, 30), (400, 170, 130))  # N, better, worse: the margin is all
MOST_ASKED = 1000
BOTH_WRONG = 0.2  # of the changed units, or as many as the gain leaves
POWER_POOLS = (60, 200, 2000)
RANDOM_IMAGES, RANDOM_RUNS, RANDOM_ASKED = 20_000, 1000, 3000
# change and gain in points: answers at the median, 80 and 90 % of runs by pool; of random images
COSTS = {
    (6, 5): ((7, 8, 9), (8, 9, 10), (8, 9, 10), 180),
    (10, 5): ((16, 23, 26), (17, 27, 33), (18, 31, 41), 320),
    (15, 5): ((28, 36, 40), (37, 59, 71), (41, 80, 100), 600),
    (20, 5): ((34, 44, 46), (60, 90, 105), (74, 138, 175), 870),
    (20, 10): ((15, 22, 25), (18, 28, 36), (19, 30, 40), 165),
    (30, 10): ((26, 37, 40), (37, 61, 75), (43, 86, 109), 300),
}
BUDGETS, BUDGET_POOL = (24, 40, 80), 2000
# power and mean number of answers by budget
DECLARED = {
    (10, 5): ((0.95, 21), (0.99, 23), (1.00, 26)),
    (15, 5): ((0.57, 34), (0.84, 39), (0.98, 54)),
    (20, 5): ((0.40, 39), (0.58, 53), (0.88, 75)),
    (20, 10): ((0.97, 20), (1.00, 22), (1.00, 26)),
    (30, 10): ((0.63, 32), (0.85, 39), (0.99, 52)),
}
BUDGET_NULLS = (400, 800, 4000)


def measure(out: Path) -> dict[str, Any]:
    """All settings, 10,000 runs each."""
    return {
        "runs": RUNS,
        "limit": ALPHA + 3 * math.sqrt(ALPHA * (1 - ALPHA) / RUNS),
        "nulls": [null(pool, share) for pool in NULL_POOLS for share in TIES],
        "margins": [at_margin(*pool) for pool in MARGINS],
        "declared_nulls": [declared_null(pool, share) for pool in BUDGET_NULLS for share in TIES],
        "costs": [cost(*setting) for setting in COSTS],
        "declared": [declared_power(*setting) for setting in DECLARED],
    }


def answers(
    pool: int, better: int, worse: int, asked: int, seed: int, runs: int = RUNS
) -> Iterator[np.ndarray[Any, Any]]:
    """Runs some at a time [500, asked], each from a pool of its own."""
    rng = np.random.default_rng([seed, pool, better, worse])
    units = np.repeat(np.array([1, -1, 0], np.int8), [better, worse, pool - better - worse])
    for _ in range(0, runs, AT_ONCE):
        yield rng.permuted(np.tile(units, (AT_ONCE, 1)), axis=1)[:, :asked]


def even(pool: int, share: float) -> int:
    """Better, and worse, units of a pool without a gain, of which such a share is equal."""
    return round(pool * (1 - share)) // 2


def ever(paths: Iterator[np.ndarray[Any, Any]]) -> float:
    """Share of the runs that reach the threshold at some time."""
    return float(np.concatenate([path.max(1) >= 1 / ALPHA for path in paths]).mean())


def null(pool: int, share: float) -> dict[str, Any]:
    side, asked = even(pool, share), min(pool, MOST_ASKED)
    error = ever(evidence(x, pool) for x in answers(pool, side, side, asked, 1))
    return {"pool": pool, "ties": share, "asked": asked, "error": error}


def at_margin(pool: int, better: int, worse: int) -> dict[str, Any]:
    m0 = (better - worse) / pool
    error = ever(evidence(x, pool, m0) for x in answers(pool, better, worse, pool, 2))
    return {"pool": pool, "better": better, "worse": worse, "error": error}


def budget_paths(
    pool: int, better: int, worse: int, budget: int, seed: int
) -> Iterator[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
    """M after each of 2 K answers, and which of them come before K that decide."""
    for x in answers(pool, better, worse, 2 * budget, seed):
        before = np.cumsum(x != 0, axis=1) - (x != 0)
        yield declared(x, pool, budget, ALPHA), before < budget


def declared_null(pool: int, share: float) -> dict[str, Any]:
    side = even(pool, share)
    error = ever(path for path, _ in budget_paths(pool, side, side, 40, 3))
    return {"pool": pool, "ties": share, "error": error}


def composition(pool: int, change: int, gain: int) -> tuple[int, int]:
    """Better and worse units of a pool where the gain is so large a part of the change."""
    mean = gain / change
    same = min(BOTH_WRONG, 1 - mean)
    return round(pool * (1 - same + mean) / 2), round(pool * (1 - same - mean) / 2)


def reached(path: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Answers until the threshold; infinite where it is not reached."""
    over = path >= 1 / ALPHA
    after: np.ndarray[Any, Any] = np.where(over.any(1), over.argmax(1) + 1, np.inf)
    return after


def quantiles(after: np.ndarray[Any, Any]) -> list[float]:
    at: list[float] = np.quantile(after, (0.5, 0.8, 0.9), method="inverted_cdf").tolist()
    return at


def cost(change: int, gain: int) -> dict[str, Any]:
    by_pool = []
    for pool in POWER_POOLS:
        runs = answers(pool, *composition(pool, change, gain), min(pool, MOST_ASKED // 2), 4)
        by_pool.append(quantiles(np.concatenate([reached(evidence(x, pool)) for x in runs])))
    better, worse = composition(RANDOM_IMAGES * change // 100, change, gain)
    images = answers(RANDOM_IMAGES, better, worse, RANDOM_ASKED, 5, RANDOM_RUNS)
    random = quantiles(np.concatenate([reached(evidence(x, RANDOM_IMAGES)) for x in images]))[0]
    return {"change": change, "gain": gain, "answers": by_pool, "random": random}


def declared_power(change: int, gain: int) -> dict[str, Any]:
    """Power and mean answers by budget: ended by 2 K answers, and already by K that decide."""
    rows = []
    for budget in BUDGETS:
        units = composition(BUDGET_POOL, change, gain)
        after, sooner, ends = [], [], []
        for path, asked in budget_paths(BUDGET_POOL, *units, budget, 6):
            after.append(reached(path))
            sooner.append(reached(np.where(asked, path, 0.0)))
            ends.append(asked.sum(1))
        rows.append(
            [
                _power(np.concatenate(after), np.array(2.0 * budget)),
                _power(np.concatenate(sooner), np.concatenate(ends)),
            ]
        )
    return {"change": change, "gain": gain, "by_budget": rows}


def _power(after: np.ndarray[Any, Any], ends: np.ndarray[Any, Any]) -> list[float]:
    """Share of runs that decide, and the mean of the answers asked for."""
    return [float(np.isfinite(after).mean()), float(np.minimum(after, ends).mean())]


def text(results: dict[str, Any]) -> str:
    """The tables of docs/benchmarks.md; in brackets what the specification says."""
    nulls = {(row["pool"], row["ties"]): row["error"] for row in results["nulls"]}
    budget = {(row["pool"], row["ties"]): row["error"] for row in results["declared_nulls"]}
    lines = [
        f'False "better" in {results["runs"]:,} pools without a gain (at most '
        f"{results['limit']:.4f} is allowed: alpha and three standard errors):",
        "",
        "| units | asked | no ties | 20 % ties | 50 % ties |",
        "|---:|---:|---:|---:|---:|",
        *(f"| {pool:,} | {min(pool, MOST_ASKED):,} | {_row(nulls, pool)} |" for pool in NULL_POOLS),
        *(f"| {pool:,}, declared | 80 | {_row(budget, pool)} |" for pool in BUDGET_NULLS),
        "",
        "On the margin itself: "
        + "; ".join(
            f"{row['better']} better and {row['worse']} worse of {row['pool']}: {row['error']:.4f}"
            for row in results["margins"]
        )
        + ".",
        "",
        "| change, gain | N = 60 | 200 | 2,000 | random images |",
        "|---|---|---|---|---|",
        *map(_cost_row, results["costs"]),
        "",
        "| change, gain | K = 24 | K = 40 | K = 80 |",
        "|---|---|---|---|",
        *map(_power_row, results["declared"]),
        "",
        f"The largest difference from the specification: {worst(results):.0%} of its "
        "answers, medians and 80 and 90 %.",
    ]
    return "\n".join(lines)


def worst(results: dict[str, Any]) -> float:
    """The largest relative difference of a number of answers in the table of costs."""
    largest: float = max(
        abs(ours / theirs - 1)
        for row in results["costs"]
        for pool, said in zip(row["answers"], COSTS[row["change"], row["gain"]][:3], strict=True)
        for ours, theirs in zip(pool, said, strict=True)
    )
    return largest


def _row(errors: dict[tuple[int, float], float], pool: int) -> str:
    return " | ".join(f"{errors[pool, share]:.4f}" for share in TIES)


def _name(row: dict[str, Any]) -> str:
    return f"{row['change']} %, +{row['gain']}"


def _cost_row(row: dict[str, Any]) -> str:
    *pools, random = COSTS[row["change"], row["gain"]]
    cells = [
        f"{' / '.join(f'{n:.0f}' for n in ours)} ({' / '.join(map(str, said))})"
        for ours, said in zip(row["answers"], pools, strict=True)
    ]
    return f"| {_name(row)} | {' | '.join(cells)} | {row['random']:.0f} ({random}) |"


def _power_row(row: dict[str, Any]) -> str:
    cells = [
        f"{power:.2f}, {mean:.0f} ({said[0]:.2f}, {said[1]}); {sooner:.2f}, {fewer:.0f}"
        for ((power, mean), (sooner, fewer)), said in zip(
            row["by_budget"], DECLARED[row["change"], row["gain"]], strict=True
        )
    ]
    return f"| {_name(row)} | {' | '.join(cells)} |"
