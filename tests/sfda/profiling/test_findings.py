"""What the figures of a profile are taken for."""

import numpy as np
import pytest

from sfda.manifests.class_matching import ClassShift
from sfda.profiling import checks
from sfda.profiling.distance import Distance
from sfda.profiling.target import is_near, recommend, shift_finding, usual_method

EQUAL = {"a": 1.0, "b": 1.0, "c": 1.0, "d": 1.0}
ONE = {"a": 97, "b": 1, "c": 1, "d": 1}


def profile(answers=EQUAL, histogram=None):
    return {
        "classes": answers,
        "confidence_histogram": histogram or [0] * 19 + [100],
        "mean_confidence": 0.9,
    }


def test_answers_of_one_class_alone_are_named_and_what_they_mean_is_left_open():
    one = checks.shares_finding(ONE, EQUAL, 0.5)
    assert one.standing == "against"
    assert one.labels_help
    assert "a (97%)" in one.sentence
    assert "no answer tells which" in one.sentence
    assert "--prior" in one.remedy


def test_answers_as_unequal_as_the_sources_classes_are_not_named():
    assert checks.shares_finding(ONE, dict(ONE), 0.5).standing == "fine"


def test_it_is_said_that_a_shift_of_labels_cannot_be_seen():
    even = checks.shares_finding(dict.fromkeys(EQUAL, 25), EQUAL, 0.5)
    assert even.standing == "fine"
    assert "cannot be seen" in even.sentence


def test_a_declared_prior_makes_a_shift_of_labels_tellable():
    skewed = checks.prior_finding(ONE, EQUAL, {"a": 0.97, "b": 0.01, "c": 0.01, "d": 0.01}, 0.5)
    assert (skewed.standing, skewed.labels_help) == ("against", False)
    # the same answers where classes are declared equal: the model is wrong on at least 72 %
    wrong = checks.prior_finding(ONE, EQUAL, dict.fromkeys(EQUAL, 0.25), 0.5)
    assert wrong.standing == "notice"
    assert wrong.figure == pytest.approx(0.72)
    answers = {"a": 55, "b": 15, "c": 15, "d": 15}
    assert checks.prior_finding(answers, EQUAL, EQUAL, 0.5).standing == "fine"


@pytest.mark.parametrize(("distinct", "standing"), [(63, "against"), (64, "fine")])
def test_less_than_a_batch_is_too_few(distinct, standing):
    assert checks.size_finding(distinct, 64, "shot").standing == standing


def test_repeated_images_are_worth_a_word():
    assert checks.duplicates_finding(90, 100).standing == "notice"
    assert checks.duplicates_finding(96, 100).standing == "fine"


@pytest.mark.parametrize(("rate", "standing"), [(0.1, "fine"), (0.11, "against")])
def test_a_rate_above_ten_times_the_usual_one_is_named(rate, standing):
    assert checks.rate_finding(rate, 0.01, "shot").standing == standing


def test_a_model_that_answers_nothing_is_no_start():
    nothing = checks.confidence_finding(None, 0, profile(histogram=[0] * 20), 100)
    assert nothing.standing == "against"


def test_confidences_are_held_against_the_cards():
    card = np.array([0] * 19 + [1000])
    same = checks.confidence_finding(card, 1000, profile(), 100)
    assert same.figure < same.limit
    other = checks.confidence_finding(card, 1000, profile(histogram=[0] * 10 + [10] * 10), 100)
    assert other.figure > other.limit
    assert checks.confidence_finding(None, 0, profile(), 100).standing == "not known"


def test_unsure_answers_are_a_sign_of_unknown_classes_only_where_nothing_is_shifted():
    card = np.array([0] * 5 + [100] + [0] * 13 + [900])
    unsure = profile(histogram=[0, 0, 0, 30, *[0] * 15, 70])
    closed = ClassShift(regime=None)
    assert checks.unknown_finding(closed, card, unsure, near=True).standing == "notice"
    assert checks.unknown_finding(closed, card, profile(), near=True).standing == "fine"
    assert checks.unknown_finding(closed, card, unsure, near=False).standing == "not known"
    assert checks.unknown_finding(closed, None, unsure, near=True).standing == "not known"


def statistics(figure):
    return checks.statistics_finding("statistics", "inputs", Distance(figure, 0.1))


def test_what_is_as_near_as_chance_is_not_shifted():
    unknown = checks.statistics_finding("features", "features", None)
    assert is_near([statistics(0.05), unknown]) is True
    assert is_near([statistics(0.05), statistics(0.2)]) is False
    assert is_near([unknown]) is None
    assert shift_finding(True).standing == "against"
    assert shift_finding(False).standing == "fine"
    assert shift_finding(None).standing == "not known"


def test_the_recommendation_follows_what_speaks_against():
    fine, alike = statistics(0.2), shift_finding(True)
    few = checks.size_finding(3, 64, "shot")
    assert recommend([fine], "shot").text == "shot"
    assert recommend([fine, few], "shot").text == "ask for labels"
    both = recommend([few, alike], "shot")
    assert (both.text, both.method) == ("do not adapt", "source")
    assert len(both.reasons) == 2


def test_auto_takes_a_method_that_rejects_where_unknown_classes_are_declared():
    opened = ClassShift(regime="open", extra=("zebra",))
    assert usual_method("classification", opened, "auto") == "glc"
    assert usual_method("classification", ClassShift(regime="closed"), "auto") == "shot"
    assert usual_method("classification", opened, "aad") == "aad"
    assert usual_method("detection", opened, "auto") == "lpld"
