"""How a problem's reports name what they count and score by class."""

from __future__ import annotations

from typing import NamedTuple


class ClassScore(NamedTuple):
    """Keys of `Report.per_class` and of its metrics, and what a reader calls them."""

    unit: str = "count"  # what is counted of each class
    score: str = "accuracy"  # by class
    label: str = "accuracy"  # the score's name for a reader
    mean: str = "macro_accuracy"  # the metric that is its mean over the classes
    overall: str = "overall_accuracy"  # the metric over all that is counted
    rows: str = "images"  # what the rows of a split are
