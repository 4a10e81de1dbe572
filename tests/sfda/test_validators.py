"""Scores without labels, and metrics with labels, against numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import toy

from sfda import plugins
from sfda.evaluate import judge, report
from sfda.metrics import ClassificationMetric
from sfda.pictures import side_by_side
from sfda.problems.classification import ClassOutput
from sfda.types import SeenViews

VALIDATORS = plugins.names("validators")


def output(probs: list[list[float]]) -> ClassOutput:
    logits = torch.tensor(probs).clamp(min=1e-30).log()
    return ClassOutput(logits, logits)


def scored(name: str, *batches: list[list[float]]) -> float:
    validator = plugins.load("validators", name)()
    for probs in batches:
        out = output(probs)
        validator.update(SeenViews(torch.arange(len(probs)), out, out, out))
    return validator.compute()


SURE = [[1.0, 0.0], [0.0, 1.0]]
COLLAPSED = [[1.0, 0.0], [1.0, 0.0]]
UNSURE = [[0.5, 0.5], [0.5, 0.5]]


def test_entropy_is_minus_the_mean_entropy() -> None:
    assert scored("entropy", SURE) == pytest.approx(0, abs=1e-6)
    assert scored("entropy", UNSURE) == pytest.approx(-math.log(2))
    assert scored("entropy", SURE, UNSURE) == pytest.approx(-math.log(2) / 2)


def test_infomax_sees_a_collapse() -> None:
    assert scored("infomax", SURE) == pytest.approx(math.log(2))
    assert scored("infomax", COLLAPSED) == pytest.approx(0, abs=1e-6)
    assert scored("infomax", UNSURE) == pytest.approx(0, abs=1e-6)


def test_nuclear_norm_is_that_of_the_whole_matrix() -> None:
    rng = np.random.default_rng(0)
    probs = rng.dirichlet(np.ones(3), 20)
    expected = np.linalg.norm(probs, "nuc") / math.sqrt(20 * 3)
    got = scored("nuclear_norm", probs[:7].tolist(), probs[7:].tolist())
    assert got == pytest.approx(expected, rel=1e-5)
    assert scored("nuclear_norm", SURE) == pytest.approx(1)


def test_agreement_is_the_mean_share_over_all_classes() -> None:
    validator = plugins.load("validators", "agreement")()
    weak = output([[0.9, 0.1, 0], [0.9, 0.1, 0], [0.1, 0.9, 0]])
    strong = output([[0.9, 0.1, 0], [0.1, 0.9, 0], [0.1, 0.9, 0]])
    validator.update(SeenViews(torch.arange(3), weak, weak, strong))
    assert validator.compute() == pytest.approx((0.5 + 1 + 0) / 3)


@pytest.mark.parametrize("name", VALIDATORS)
def test_the_order_and_the_batching_do_not_count(name: str) -> None:
    probs = np.random.default_rng(1).dirichlet(np.ones(4), 30).tolist()
    whole = scored(name, probs)
    assert scored(name, probs[20:], probs[:20]) == pytest.approx(whole)


@pytest.mark.parametrize("name", VALIDATORS)
def test_nothing_seen_is_an_error(name: str) -> None:
    with pytest.raises(ValueError, match="of no predictions"):
        plugins.load("validators", name)().compute()


@pytest.mark.parametrize("name", VALIDATORS)
def test_a_good_model_scores_above_an_untrained_one(name: str) -> None:
    x, _ = toy.images()
    noise = 0.3 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    scores = []
    for network in (toy.source(), toy.network().eval()):
        with torch.no_grad():
            seen = [SeenViews(torch.arange(120), network(x), network(x), network(x + noise))]
        scores.append(judge(seen, {name: plugins.load("validators", name)()}).scores[name])
    assert scores[0] > scores[1]


def test_metrics_by_hand() -> None:
    metric = ClassificationMetric(("a", "b", "c"))
    out = output([[0.8, 0.1, 0.1], [0.6, 0.3, 0.1], [0.2, 0.7, 0.1], [0.3, 0.6, 0.1]])
    metric.update(out.logits, torch.tensor([0, 0, 1, 0]))
    found = metric.compute()
    assert found["overall_accuracy"] == pytest.approx(3 / 4)
    assert found["macro_accuracy"] == pytest.approx((2 / 3 + 1) / 2), "class c does not occur"
    gaps = abs(0.8 - 1) + abs((0.6 + 0.6) - 1) + abs(0.7 - 1)
    assert found["expected_calibration_error"] == pytest.approx(gaps / 4, abs=1e-6)
    log_loss = -sum(map(math.log, (0.8, 0.6, 0.7, 0.3))) / 4
    assert found["log_loss"] == pytest.approx(log_loss, abs=1e-6)
    assert metric.per_class() == {
        "a": {"accuracy": pytest.approx(2 / 3), "count": 3.0},
        "b": {"accuracy": 1.0, "count": 1.0},
        "c": {"count": 0.0},
    }
    assert metric.confusion.tolist() == [[2, 1, 0], [0, 1, 0], [0, 0, 0]]


def test_metrics_of_nothing_are_an_error() -> None:
    with pytest.raises(ValueError, match="no samples"):
        ClassificationMetric(("a",)).compute()


def test_the_picture_is_a_png_of_a_readable_size() -> None:
    pairs = [(output([[0.9, 0.1], [0.3, 0.7]]), torch.tensor([0, 0]))]
    found = report(pairs, ("cat", "dog"), split="test")
    png = side_by_side(found, found, title="toy")
    assert png.startswith(b"\x89PNG")
    width, height = (int.from_bytes(png[i : i + 4], "big") for i in (16, 20))
    assert (width, height) == (1500, 520)
