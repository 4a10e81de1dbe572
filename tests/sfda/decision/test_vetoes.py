"""Each veto with a case made by hand (docs/methods/decide.md, section 5)."""

from __future__ import annotations

import math

import pytest
import torch

from sfda.decision.vetoes import (
    Expected,
    FigureCounter,
    Figures,
    effective,
    figures_of,
    vetoes,
    watched_vetoes,
)
from sfda.measures.tally import Tally
from sfda.policy import VetoLimits

LIMITS = VetoLimits()
CALM = Figures(images=100)


def tally(mass: list[float], answers: list[float], boxes: float | None = None) -> Tally:
    units = sum(answers)
    return Tally(
        int(units), torch.tensor(mass), torch.tensor(answers), units if boxes is None else boxes,
        boxes,
    )  # fmt: skip


def figures(mass: list[float], answers: list[float]) -> Figures:
    counter = FigureCounter()
    counter.update(tally(mass, answers))
    return counter.compute()


def test_effective_classes_are_e_to_the_entropy() -> None:
    assert effective(torch.tensor([1.0, 1.0, 1.0, 1.0])) == pytest.approx(4.0)
    shares = [0.5, 0.25, 0.25]
    expected = math.exp(-sum(p * math.log(p) for p in shares))
    assert effective(torch.tensor([2.0, 1.0, 1.0, 0.0])) == pytest.approx(expected)
    assert effective(torch.zeros(3)) is None


def test_figures_add_up_over_batches_also_of_different_widths() -> None:
    counter = FigureCounter({0: 2, 3: 1})
    counter.update(tally([1.0, 1.0], [2.0, 0.0]), [0, 1], [2, 0])
    counter.update(tally([0.0, 1.0, 1.0], [0.0, 1.0, 1.0]), [2, 3], [1, 0])
    result = counter.compute(unknown_share=0.25, pseudo_labels=0.5)
    assert result.images == 4
    assert result.effective_classes == pytest.approx(effective(torch.tensor([1.0, 2.0, 1.0])))
    assert (result.top_class, result.top_share) == (0, 0.5)
    assert result.surest_agreement == 0.5  # of rows 0 and 3
    assert (result.unknown_share, result.pseudo_labels) == (0.25, 0.5)
    assert result.boxes_per_image is None


def test_an_absolute_collapse_counts_also_where_the_model_before_has_collapsed() -> None:
    collapsed = figures([97.0, 1.0, 1.0, 1.0], [100.0, 0.0, 0.0, 0.0])
    (text,) = vetoes(collapsed, collapsed, LIMITS, Expected(effective=4.0))
    assert text == "1.2 effective classes of 4.0 expected, below 2.0"
    assert vetoes(collapsed, collapsed, LIMITS, Expected()) == ()


def test_a_collapse_of_the_source_bars_an_epoch_and_ends_no_run() -> None:
    collapsed = figures([97.0, 1.0, 1.0, 1.0], [100.0, 0.0, 0.0, 0.0])
    healthy = figures([1.0] * 4, [25.0] * 4)
    expected = Expected(effective=4.0)
    (text,) = watched_vetoes(collapsed, collapsed, LIMITS, expected)
    assert text == "as the source: 1.2 effective classes of 4.0 expected, below 2.0"
    assert watched_vetoes(collapsed, healthy, LIMITS, expected)[0].startswith("1.2 effective")
    other = healthy.model_copy(update={"surest_agreement": 0.2})
    assert watched_vetoes(other, collapsed, LIMITS, expected) == ()  # nor must it agree with it
    assert watched_vetoes(other, healthy, LIMITS, expected)


def test_a_declared_prior_takes_the_place_of_the_number_of_classes() -> None:
    lopsided = figures([90.0, 5.0, 5.0], [60.0, 20.0, 20.0])
    assert vetoes(lopsided, lopsided, LIMITS, Expected(effective=3.0))
    prior = effective(torch.tensor([0.9, 0.05, 0.05]))
    assert vetoes(lopsided, lopsided, LIMITS, Expected(effective=prior)) == ()


def test_where_classes_are_unequal_by_nature_the_model_before_is_the_measure() -> None:
    before = figures([1.0] * 4, [25.0, 25.0, 25.0, 25.0])
    after = figures([1.0] * 4, [97.0, 1.0, 1.0, 1.0])
    texts = vetoes(after, before, LIMITS, Expected(), ("a", "b", "c", "d"))
    assert texts == (
        "1.2 effective classes where there were 4.0, below 2.0",
        "97% of the answers are 'a', above 80%",
    )
    unequal = figures([1.0] * 4, [90.0, 4.0, 3.0, 3.0])
    assert vetoes(unequal, unequal, LIMITS, Expected()) == ()  # it was so before


@pytest.mark.parametrize(("share_before", "against"), [(0.49, True), (0.5, False), (0.79, False)])
def test_one_class_everywhere_is_against_it_where_it_was_not_so_before(
    share_before: float, against: bool
) -> None:
    before = CALM.model_copy(update={"top_class": 1, "top_share": share_before})
    after = CALM.model_copy(update={"top_class": 1, "top_share": 0.81})
    assert bool(vetoes(after, before, LIMITS, Expected(), ("cat", "dog"))) is against
    assert not vetoes(
        after.model_copy(update={"top_share": 0.8}), before, LIMITS, Expected(), ("cat", "dog")
    )


@pytest.mark.parametrize(
    ("now", "against"), [(2.0, False), (6.0, False), (6.1, True), (0.6, True), (0.0, True)]
)
def test_three_times_as_many_boxes_or_a_third_of_them(now: float, against: bool) -> None:
    before = CALM.model_copy(update={"boxes_per_image": 2.0})
    after = CALM.model_copy(update={"boxes_per_image": now})
    assert bool(vetoes(after, before, LIMITS, Expected())) is against


def test_no_boxes_before_and_none_now_say_nothing() -> None:
    empty = CALM.model_copy(update={"boxes_per_image": 0.0})
    assert vetoes(empty, empty, LIMITS, Expected()) == ()
    assert vetoes(CALM.model_copy(update={"boxes_per_image": 1.0}), empty, LIMITS, Expected())


@pytest.mark.parametrize(
    ("name", "fine", "bad", "word"),
    [
        ("unknown_share", 0.9, 0.91, "91% of the answers are 'unknown', above 90%"),
        ("surest_agreement", 0.8, 0.79, "on 79% of the fifth"),
        ("pseudo_labels", 0.05, 0.04, "fell to 4.0% of the first epoch's, below 5%"),
    ],
)
def test_limits_of_single_figures(name: str, fine: float, bad: float, word: str) -> None:
    assert vetoes(CALM.model_copy(update={name: fine}), CALM, LIMITS, Expected()) == ()
    (text,) = vetoes(CALM.model_copy(update={name: bad}), CALM, LIMITS, Expected())
    assert word in text


def test_a_policy_moves_the_limits() -> None:
    mild = VetoLimits(unknown=0.5)
    assert vetoes(CALM.model_copy(update={"unknown_share": 0.6}), CALM, mild, Expected())


def test_a_profile_says_what_the_model_before_answers() -> None:
    before = figures_of(
        {
            "classes": {"a": 30, "b": 10},
            "confidence_histogram": [0] * 20,
            "mean_confidence": 0.5,
            "per_image": 1.5,
        },
        40,
    )
    assert (before.top_class, before.top_share, before.boxes_per_image) == (0, 0.75, 1.5)
    assert before.effective_answers == pytest.approx(effective(torch.tensor([3.0, 1.0])))
