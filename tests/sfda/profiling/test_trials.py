"""Which methods and settings a search tries, and in which order."""

from __future__ import annotations

import pytest

from sfda.errors import BadInput
from sfda.methods.shot import Shot
from sfda.problem_names import PROBLEM_NAMES
from sfda.problems.registry import PROBLEMS
from sfda.profiling.trials import MOST_TRIALS, SearchTrial, trials, usual_methods


def test_each_method_comes_as_it_is_before_any_other_setting() -> None:
    rate = Shot.Config.from_settings(Shot.defaults_for("classification")).schedule.lr
    every = trials("classification", ["shot", "bn", "aad"])
    assert every[:3] == [SearchTrial("shot", {}), SearchTrial("bn", {}), SearchTrial("aad", {})]
    rates = [trial.settings["schedule"]["lr"] for trial in every[3:] if trial.method == "shot"]
    assert rates == [pytest.approx(rate / 3, rel=0.01), pytest.approx(3 * rate, rel=0.01)]
    assert not [trial for trial in every[3:] if trial.method == "bn"]  # it has no rate
    assert len({trial.name for trial in every}) == len(every)


def test_a_grid_stands_in_place_of_the_rates() -> None:
    grid = {"shot": {"schedule.lr": [0.1, 0.2], "schedule.momentum": [0.5]}}
    assert trials("classification", ["shot"], grid)[1:] == [
        SearchTrial("shot", {"schedule": {"lr": rate, "momentum": 0.5}}) for rate in (0.1, 0.2)
    ]
    assert trials("classification", ["shot"], grid)[1].name == (
        "shot (schedule.lr=0.1, schedule.momentum=0.5)"
    )


@pytest.mark.parametrize("problem", PROBLEM_NAMES)
def test_every_problem_has_usual_methods_its_own_first(problem: str) -> None:
    methods = usual_methods(problem)
    assert methods[0] == PROBLEMS[problem].default_method
    assert 2 <= len(methods) <= 4
    assert trials(problem, methods)


@pytest.mark.parametrize(
    ("methods", "grid", "says"),
    [
        (["lpld"], None, "lpld is not for classification"),
        (["shot"], {"aad": {"schedule.lr": [1]}}, "the grid names aad"),
        (["shot"], {"shot": {"schedule.lr": 0.1}}, "needs a list of values"),
        (["shot"], {"shot": {"schedule.lr": []}}, "needs a list of values"),
        (["shot"], {"shot": {"schedule.lr": [*range(MOST_TRIALS)]}}, "at most 64"),
        (["shot"], {"shot": {f"k{n}": [*range(10)] for n in range(9)}}, "has 1000000000 trials"),
        (["shot"], {"shot": {f"k{n}": [*range(10)] for n in range(5000)}}, "has over 10.12 trials"),
        (["shoot"], None, "did you mean 'shot'"),
    ],
)
def test_what_is_no_grid_is_refused(methods, grid, says) -> None:
    with pytest.raises(BadInput, match=says):
        trials("classification", methods, grid)
