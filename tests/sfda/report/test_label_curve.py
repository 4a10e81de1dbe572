"""The picture of scores against labels: a colour is one query's, in every panel."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sfda.report import pictures


def row(query: str, method: str, labels: int, seed: int, score: float) -> dict[str, Any]:
    return {
        "query": query, "method": method, "labels": labels, "seed": seed,
        "metrics": {"overall_accuracy": score},
    }  # fmt: skip


def test_a_query_has_one_colour_and_its_points_are_means(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "png", lambda figure: figure)
    rows = [
        row("random", "lftl", 10, 0, 0.5), row("random", "lftl", 10, 1, 0.7),
        row("lftl", "lftl", 10, 0, 0.8), row("entropy", "shot", 10, 0, 0.4),
        row("lftl", "shot", 10, 0, 0.9), row("random", "shot", 10, 0, 0.6),
    ]  # fmt: skip
    figure: Any = pictures.label_curve(rows, {"overall_accuracy": 0.3}, title="t")
    result: dict[str, dict[str, Any]] = {}
    for axes in figure.axes:
        for container in axes.containers:
            line = container.lines[0]
            result.setdefault(container.get_label(), {})[axes.get_title()] = line
    assert {name: set(own) for name, own in result.items()} == {
        "random": {"lftl", "shot"}, "lftl": {"lftl", "shot"}, "entropy": {"shot"},
    }  # fmt: skip
    colours = [{line.get_color() for line in own.values()} for own in result.values()]
    assert all(len(own) == 1 for own in colours)
    assert len(set.union(*colours)) == 3
    np.testing.assert_allclose(result["random"]["lftl"].get_ydata().astype(float), [60.0])
