"""The evidence of answers: recorded numbers, certainty at a pool's end, and rates of error."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from golden_files import GOLDEN

from sfda.decision.betting import (
    can_declare,
    declared,
    evidence,
    limits,
    rung_alpha,
    sign_hope,
    sign_test,
)

ALPHA = 0.05


def golden(name: str) -> dict[str, np.ndarray]:
    with np.load(GOLDEN / "decide" / f"{name}.npz", allow_pickle=False) as arrays:
        return {key: arrays[key] for key in arrays.files}


def close(ours: object, theirs: object) -> None:
    np.testing.assert_allclose(np.asarray(ours), np.asarray(theirs), rtol=1e-9, atol=0)


@pytest.mark.parametrize("name", ["ties", "margin", "fraction", "null"])
def test_evidence_is_that_of_confseq(name: str) -> None:
    recorded = golden(f"betting_{name}")
    x, pool, m0 = recorded["x"], int(recorded["N"]), float(recorded["m0"])
    close(evidence(x, pool, m0), recorded["E"])
    close(evidence(-x, pool, m0), recorded["E_minus_x"])


def test_a_declared_budget_mixes_in_the_final_sign_test() -> None:
    recorded = golden("audit_k40")
    x, pool, budget = recorded["x"], int(recorded["N"]), int(recorded["K"])
    critical, size = sign_test(budget, ALPHA)
    assert critical == recorded["critical"]
    close(size, recorded["size"])
    close(sign_hope(x, budget, ALPHA), recorded["p"])
    close(evidence(x, pool), recorded["E"])
    close(declared(x, pool, budget, ALPHA), recorded["M"])
    for after, both in zip(recorded["limits_after"], recorded["limits"], strict=True):
        close(limits(x[:after], pool, ALPHA), both)


def test_a_pool_answered_in_full_is_certain() -> None:
    recorded = golden("audit_whole_pool")
    x, m0 = recorded["x"], float(recorded["m0"])
    close(evidence(x, len(x), m0), recorded["E"])
    close(limits(x, len(x), ALPHA), recorded["limits"])


@pytest.mark.parametrize("m0", [-0.95, -0.3, 0.0, 0.03, 0.049, 0.05, 0.051, 0.3, 1.0, 1.2])
def test_full_answers_end_in_certainty_for_every_null(m0: float) -> None:
    """On the boundary itself, at a mean of 0.05, the null is so, and must not be refuted."""
    orders = [np.random.default_rng(seed).permutation([1] * 21 + [-1] * 19) for seed in range(50)]
    ends = evidence(np.stack(orders), 40, m0)[:, -1]
    if m0 < 0.05:
        assert np.isinf(ends).all()
    else:
        assert (evidence(np.stack(orders), 40, m0).max(1) >= 1 / ALPHA).mean() <= 0.1
        assert np.isfinite(ends).all()
    assert {limits(order, 40, ALPHA) for order in orders} == {(0.05, 0.05)}


def test_the_same_answers_in_a_batch_of_others_give_the_same_evidence() -> None:
    rng = np.random.default_rng(1)
    x = rng.integers(-1, 2, size=(7, 30))
    nulls = rng.uniform(-0.2, 0.2, 7)
    together = evidence(x, 90, nulls)
    for row, m0, path in zip(x, nulls, together, strict=True):
        np.testing.assert_array_equal(evidence(row, 90, m0), path)
        np.testing.assert_array_equal(evidence(row[:11], 90, m0), path[:11])


def test_limits_are_where_evidence_is_at_the_threshold_and_enclose_the_mean() -> None:
    x = np.random.default_rng(2).permutation([1] * 18 + [0] * 6 + [-1] * 6)
    low, high = limits(x, 400, ALPHA)
    assert low < x.mean() < high
    close(evidence(x, 400, low)[-1], 1 / ALPHA)
    close(evidence(-x, 400, -high)[-1], 1 / ALPHA)
    assert limits(-x, 400, ALPHA) == (-high, -low)
    assert limits([], 400, ALPHA) == (-1.0, 1.0)
    few_left = limits([-1.0] * 9 + [1.0], 11, ALPHA)  # one is not answered: -9/11 to -7/11
    close(few_left, (-9 / 11, -7 / 11))


def test_evidence_falls_where_the_null_rises() -> None:
    x = np.random.default_rng(3).permutation([1] * 13 + [-1] * 7)
    nulls = np.linspace(-4 / 30, 16 / 30, 200)  # all that the ten units left allow
    ends = evidence(np.tile(x, (200, 1)), 30, nulls)[:, -1]
    finite = ends[np.isfinite(ends)]
    assert len(finite) > 100
    assert (np.diff(finite) <= 1e-12).all()


def test_a_thousand_right_answers_do_not_overflow_for_good() -> None:
    path = evidence([1.0] * 1500 + [-1.0] * 1500, 10**6)
    assert np.isinf(path[1499])  # above 1e308
    assert path[-1] < 1


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="4 answers from a pool of 3"):
        evidence([1, 0, 0, 1], 3)
    with pytest.raises(ValueError, match="-1 to 1"):
        evidence([1.5], 3)
    with pytest.raises(ValueError, match="-1 to 1"):
        evidence([float("nan")], 3)
    assert not can_declare(399, 40, ALPHA)
    assert can_declare(400, 40, ALPHA)
    assert not can_declare(400, 40, ALPHA, m0=0.01)
    assert not can_declare(400, 4, ALPHA)  # 4 of 4 right happen in 1/16 of all cases
    assert sign_test(4, ALPHA) == (5, 0.0)
    with pytest.raises(ValueError, match="no budget of 40"):
        declared([1, 0], 399, 40, ALPHA)
    with pytest.raises(ValueError, match="no budget of 40"):
        declared([1, 0.5], 400, 40, ALPHA)


def test_the_rungs_of_a_ladder_stay_within_alpha() -> None:
    levels = [rung_alpha(ALPHA, rung) for rung in range(30)]
    assert [round(1 / level) for level in levels[:3]] == [40, 80, 160]
    assert sum(levels) <= ALPHA


def drawn(runs: int, better: int, worse: int, same: int, asked: int, seed: int) -> np.ndarray:
    """Answers [runs, asked], each run from a pool of so many, without replacement."""
    pool = np.repeat([1, -1, 0], [better, worse, same])
    return np.random.default_rng(seed).permuted(np.tile(pool, (runs, 1)), axis=1)[:, :asked]


@pytest.mark.parametrize(("pool", "ties"), list(product((20, 40, 100, 400), (0.0, 0.2, 0.5))))
def test_false_better_is_rarer_than_alpha(pool: int, ties: float) -> None:
    """600 pools without a gain, answered in full up to 300 units, looked at after every answer."""
    same = round(pool * ties) + round(pool * ties) % 2
    x = drawn(600, (pool - same) // 2, (pool - same) // 2, same, min(pool, 300), pool)
    most = ALPHA + 3 * (ALPHA * (1 - ALPHA) / 600) ** 0.5
    assert 0 < (evidence(x, pool).max(1) >= 1 / ALPHA).mean() <= most
    if can_declare(pool, 40, ALPHA):
        assert 0.01 < (declared(x[:, :80], pool, 40, ALPHA).max(1) >= 1 / ALPHA).mean() <= most


@pytest.mark.parametrize(
    ("pool", "better", "worse", "median"),
    [(60, 39, 9, 16), (200, 113, 47, 37), (2000, 1300, 300, 18), (2000, 1133, 467, 41)],
)
def test_power_is_that_of_the_specification(
    pool: int, better: int, worse: int, median: int
) -> None:
    x = drawn(600, better, worse, pool - better - worse, min(pool, 200), 5)
    reached = evidence(x, pool) >= 1 / ALPHA
    after = np.where(reached.any(1), reached.argmax(1) + 1, np.inf)
    assert abs(np.median(after) / median - 1) <= 0.15
