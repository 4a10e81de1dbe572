"""What a report's metrics say of its problem: which of them decides, and which are shown.

A report does not name its problem, and need not: no two problems share a main metric.
"""

from __future__ import annotations

from sfda.problems._base import AnyProblem
from sfda.problems._class_score import ClassScore
from sfda.problems.registry import PROBLEMS
from sfda.refs import Metrics


def main_metric(metrics: Metrics) -> str:
    """What decides between two models, such as the mean IoU of masks or the macro accuracy.

    >>> main_metric({"macro_accuracy": 0.5, "h_score": 0.4}), main_metric({"macro_accuracy": 0.5})
    ('h_score', 'macro_accuracy')
    """
    return next(m for m in _problem(metrics).main_metrics if m in metrics)


def metrics_of(metrics: Metrics) -> tuple[str, ...]:
    """What a comparison shows: other figures where there are unknown samples."""
    return _problem(metrics).main_metrics[main_metric(metrics)]


def score_of(metrics: Metrics) -> ClassScore:
    """What a report counts by class, and the score that it gives: of masks, boxes, or images."""
    return _problem(metrics).class_score


def _problem(metrics: Metrics) -> AnyProblem:
    return next(one for one in PROBLEMS.values() if not metrics.keys().isdisjoint(one.main_metrics))
