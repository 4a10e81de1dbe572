"""Scores without labels, and metrics with labels, against numbers worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from sfda import plugins
from sfda.adaptation.scoring import score_unlabelled
from sfda.problems.class_outputs import SCORED_PIXELS, rows_of
from sfda.problems.classification.evaluation import classification_report
from sfda.problems.classification.metrics import ClassificationMetric
from sfda.problems.classification.network import ClassOutput
from sfda.problems.segmentation.network import SegOutput
from sfda.report.pictures import side_by_side
from sfda.testing.toys import Toy, toys
from sfda.testing.toys import classification as toy
from sfda.testing.validators import VALIDATOR_CHECKS, Scoring, require_validator
from sfda.types import SeenViews

ON_IMAGES = [
    name
    for name in plugins.names("validators")
    if "classification" in plugins.load("validators", name).problems
]
VALIDATORS = [  # of images and pixels, from outputs alone
    name
    for name in ON_IMAGES
    if not (kind := plugins.load("validators", name)).needs_network and not kind.needs_card
]


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


def label(tried: Any) -> str:
    return str(tried.__name__).rpartition(".")[2]


CASES = [
    pytest.param(case, name, id=f"{label(case)}-{name}")
    for case in toys()
    for name in plugins.names("validators")
    if case.PROBLEM in plugins.load("validators", name).problems
]


@cache
def scoring(case: Toy, name: str) -> Scoring:
    return Scoring(plugins.load("validators", name), case, {})


@pytest.mark.parametrize("check", VALIDATOR_CHECKS, ids=label)
@pytest.mark.parametrize(("case", "name"), CASES)
def test_every_validator_keeps_the_contract(
    case: Toy, name: str, check: Callable[[Scoring], None]
) -> None:
    check(scoring(case, name))


@pytest.mark.parametrize("name", plugins.names("validators"))
def test_every_validator_says_what_it_is(name: str) -> None:
    require_validator(plugins.load("validators", name))


def test_nothing_seen_is_an_error() -> None:
    with pytest.raises(ValueError, match="of no predictions"):
        plugins.load("validators", "infomax")().compute()


@pytest.mark.parametrize(
    "name", [name for name in ON_IMAGES if plugins.load("validators", name).chooses]
)
def test_a_good_model_scores_above_an_untrained_one(name: str) -> None:
    x, _ = toy.images(0.5)
    noise = 0.3 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    scores = []
    for network in (toy.source(), toy.network().eval()):
        with torch.no_grad():
            views = network(x), network(x), network(x + noise)
        seen = [SeenViews(torch.arange(120), *views, x)]
        validator = scoring(toy, name).validator(network)
        scores.append(score_unlabelled(seen, {name: validator}).scores[name])
    assert scores[0] > scores[1]


def test_pixels_are_rows_in_the_order_of_the_maps() -> None:
    logits = torch.arange(2 * 3 * 2 * 2).reshape(2, 3, 2, 2).float()
    rows = rows_of(logits)
    assert rows.shape == (8, 3)
    assert rows[1].tolist() == logits[0, :, 0, 1].tolist()
    assert rows[6].tolist() == logits[1, :, 1, 0].tolist()
    assert rows_of(rows) is rows, "images are rows as they are"


@pytest.mark.parametrize(
    ("size", "count"), [((64, 64), 4096), ((65, 65), 32 * 32), ((512, 1024), 43 * 85)]
)
def test_of_a_large_map_a_regular_grid_counts(size: tuple[int, int], count: int) -> None:
    places = torch.arange(size[0] * size[1]).reshape(1, 1, *size)
    rows = rows_of(places.double())[:, 0].long()
    assert len(rows) == count <= SCORED_PIXELS
    assert (rows == rows_of(places.double())[:, 0].long()).all()
    down, across = (rows // size[1]).unique(), (rows % size[1]).unique()
    assert len(down) * len(across) == count
    for seen, length in ((down, size[0]), (across, size[1])):
        steps = seen.diff().unique()
        assert len(steps) == 1
        assert seen[0] < steps[0]
        assert length - seen[-1] <= steps[0]


@pytest.mark.parametrize("size", [(1, 4097), (2, 40_000), (40_000, 1)])
def test_of_a_thin_map_something_counts(size: tuple[int, int]) -> None:
    assert len(rows_of(torch.zeros(1, 2, *size))) >= 2000


@pytest.mark.parametrize("name", VALIDATORS)
def test_pixels_score_as_images_with_the_same_probabilities(name: str) -> None:
    rng = np.random.default_rng(2)
    weak, strong = (output(rng.dirichlet(np.ones(3), 24).tolist()) for _ in range(2))

    def maps(out: ClassOutput) -> SegOutput:
        logits = out.logits.reshape(2, 3, 4, 3).permute(0, 3, 1, 2)
        return SegOutput(logits, logits)

    scores = []
    for a, b in ((weak, strong), (maps(weak), maps(strong))):
        validator = plugins.load("validators", name)()
        validator.update(SeenViews(torch.arange(len(a.logits)), a, a, b))
        scores.append(validator.compute())
    assert scores[0] == pytest.approx(scores[1])


def test_validators_are_for_both_problems() -> None:
    problems = [plugins.load("validators", name).problems for name in VALIDATORS]
    assert {"entropy", "infomax", "nuclear_norm", "agreement"} <= set(VALIDATORS)
    assert all({"classification", "segmentation"} <= result for result in problems)


def test_metrics_by_hand() -> None:
    metric = ClassificationMetric(("a", "b", "c"))
    out = output([[0.8, 0.1, 0.1], [0.6, 0.3, 0.1], [0.2, 0.7, 0.1], [0.3, 0.6, 0.1]])
    metric.update(out.logits, torch.tensor([0, 0, 1, 0]))
    result = metric.compute()
    assert result["overall_accuracy"] == pytest.approx(3 / 4)
    assert result["macro_accuracy"] == pytest.approx((2 / 3 + 1) / 2), "class c does not occur"
    gaps = abs(0.8 - 1) + abs((0.6 + 0.6) - 1) + abs(0.7 - 1)
    assert result["expected_calibration_error"] == pytest.approx(gaps / 4, abs=1e-6)
    log_loss = -sum(map(math.log, (0.8, 0.6, 0.7, 0.3))) / 4
    assert result["log_loss"] == pytest.approx(log_loss, abs=1e-6)
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
    result = classification_report(pairs, ("cat", "dog"), split="test")
    png = side_by_side(result, result, title="toy")
    assert png.startswith(b"\x89PNG")
    width, height = (int.from_bytes(png[i : i + 4], "big") for i in (16, 20))
    assert (width, height) == (1500, 520)
