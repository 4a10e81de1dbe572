"""A small grid of methods and settings that is worth a try on a target, the usual ones first."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sfda import plugins
from sfda.config import merged
from sfda.errors import BadInput
from sfda.problems.registry import PROBLEMS

RATES = (1 / 3, 3.0)  # times a method's own learning rate
MOST_TRIALS = 64
SettingsGrid = Mapping[str, Mapping[str, Sequence[Any]]]  # by method, by dotted setting: its values


class SearchTrial(NamedTuple):
    """A method with settings over its defaults."""

    method: str
    settings: dict[str, Any]

    @property
    def name(self) -> str:
        """As a table names it: the method, and what is not its default."""
        changed = ", ".join(f"{key}={_short(value)}" for key, value in _dotted(self.settings))
        return f"{self.method} ({changed})" if changed else self.method


def usual_methods(problem: str) -> tuple[str, ...]:
    """The problem's usual method, and those that learn from images alone in another way: in the
    order of their names, at most four in all.
    """
    first = PROBLEMS[problem].default_method
    others = [
        name
        for name in ("bn", "aad", "mean_teacher", "adami", "lpld", "post", "nrc")
        if name != first and problem in plugins.load("methods", name).problems
    ]
    return (first, *others[:3])


def trials(
    problem: str, methods: Sequence[str], grid: SettingsGrid | None = None
) -> list[SearchTrial]:
    """Every method as it is, then with other learning rates, or with what a grid names instead.

    Raises BadInput for a method that does not serve the problem or is not asked for, and for a grid
    of more than MOST_TRIALS.
    """
    for name in methods:
        if problem not in plugins.load("methods", name).problems:
            raise BadInput(f"{name} is not for {problem}; leave it out of --methods")
    if strange := sorted(set(grid or {}) - set(methods)):
        raise BadInput(f"the grid names {strange[0]}, which is none of {', '.join(methods)}")
    first = [SearchTrial(name, {}) for name in methods]
    more = [
        _of_grid(name, grid[name]) if grid and name in grid else _rates(problem, name)
        for name in methods
    ]
    every = first + [trial for row in itertools.zip_longest(*more) for trial in row if trial]
    _check_number(len(every))
    return every


def _check_number(trials: int) -> None:
    """Raises BadInput for more than MOST_TRIALS."""
    if trials > MOST_TRIALS:
        stated = f"{trials}" if trials < 10**12 else "over 10^12"  # which may have 5,000 digits
        raise BadInput(f"the grid has {stated} trials; at most {MOST_TRIALS}")


def _rates(problem: str, method: str) -> list[SearchTrial]:
    kind = plugins.load("methods", method)
    if kind.learns in ("statistics", "nothing"):
        return []
    rate = kind.Config.from_settings(kind.defaults_for(problem)).schedule.lr
    return [
        SearchTrial(method, {"schedule": {"lr": float(f"{times * rate:.3g}")}}) for times in RATES
    ]


def _of_grid(method: str, values: Mapping[str, Sequence[Any]]) -> list[SearchTrial]:
    """All combinations. Raises BadInput where a setting has no list of values, and for more
    combinations than MOST_TRIALS.
    """
    for key, one in values.items():
        if isinstance(one, str) or not isinstance(one, Sequence) or not one:
            raise BadInput(f"the grid's {method}.{key} needs a list of values, such as [0.01, 0.1]")
    _check_number(math.prod(map(len, values.values())))
    combinations = itertools.product(*([(key, v) for v in one] for key, one in values.items()))
    return [SearchTrial(method, _nested(pairs)) for pairs in combinations if pairs]


def _nested(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for key, value in pairs:
        for part in reversed(key.split(".")):
            value = {part: value}
        settings = merged(settings, value)
    return settings


def _dotted(settings: Mapping[str, Any], above: str = "") -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for key, value in settings.items():
        if isinstance(value, Mapping):
            pairs += _dotted(value, f"{above}{key}.")
        else:
            pairs.append((f"{above}{key}", value))
    return pairs


def _short(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
