"""What a query of labels is to do, all choices made and checked before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sfda import plugins
from sfda.config import Config, merged
from sfda.errors import BadInput
from sfda.queries._base import Query


class QueryPlan(Config):
    """What fixes a query besides model and target."""

    by: str
    budget: int
    config: dict[str, Any]
    split: str
    seed: int
    copy_images: bool = False
    test_split: str | None = None  # that nothing need be held out for; None: "test"


def read_budget(text: str, size: int) -> int:
    """`50`, or a share of the split such as `1%`. Raises BadInput.

    >>> read_budget("50", 1000), read_budget("1%", 1250)
    (50, 12)
    """
    number, percent, rest = str(text).strip().partition("%")
    try:
        count = round(size * float(number) / 100) if percent else int(number)
    except (ValueError, OverflowError):
        count = 0
    if rest or count < 1:
        raise BadInput(f"budget {text} of {size} images: write a number above 0, or a share, 1%")
    return count


def make_query_plan(
    problem: str,
    by: str,
    budget: int,
    split: str,
    settings: Mapping[str, Any],
    seed: int,
    copy_images: bool = False,
    test_split: str | None = None,
) -> QueryPlan:
    """The plan with its settings checked. Raises BadInput."""
    kind: type[Query] = plugins.load("queries", by)
    merged_settings = merged(kind.defaults_for(problem), dict(settings))
    config = kind.Config.from_settings(merged_settings).model_dump(mode="json")
    return QueryPlan(
        by=by,
        budget=budget,
        config=config,
        split=split,
        seed=seed,
        copy_images=copy_images,
        test_split=test_split,
    )
