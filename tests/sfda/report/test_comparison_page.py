"""The page, the plot and the table of a comparison of methods."""

from __future__ import annotations

import io
from typing import Any

import pytest
from PIL import Image

from sfda.refs import Adaptation, Candidate, Report
from sfda.report.comparison import (
    EpochMetrics,
    SourceOnly,
    bound_note,
    method_rows,
    row_summaries,
    source_rows,
)
from sfda.report.comparison_page import (
    ComparisonReport,
    comparison_page,
    comparison_plot,
    mean_curve,
)

HOSTILE = "<script>alert(1)</script>\u202e"


def metrics(value: float) -> dict[str, float]:
    return {"overall_accuracy": value, "macro_accuracy": value}


def epochs(*values: float, chosen: int = 0) -> EpochMetrics:
    return EpochMetrics(metrics=tuple(map(metrics, values)), chosen=chosen)


def made(bound: float, name: str = "shot") -> ComparisonReport:
    done = Adaptation(
        folder="x",
        history_sha256="0" * 64,
        candidates=(Candidate(epoch=0, scores={}, weights=None, sha256=None),),
        seconds=1.0,
        images_per_second=1.0,
        peak_memory_mb=1.0,
    )
    source = Report(
        split="test", count=4, metrics=metrics(0.6), per_class={"a": {"count": 4.0}}, confusion=[]
    )
    runs = {
        name: (epochs(0.7, 0.9, chosen=1), epochs(0.5, 0.7, chosen=1)),
        "supervised": (epochs(bound), epochs(bound)),
    }
    rows: list[Any] = source_rows(SourceOnly(report=source))
    for method, own in runs.items():
        triples = [(seed, done, one) for seed, one in enumerate(own)]
        rows += method_rows(method, "infomax", triples, source.metrics)
    return ComparisonReport(
        title=f"compare: {name}",
        made="today",
        counts=name,
        rows=row_summaries(rows),
        source=source.metrics,
        runs=runs,
        lineage={"source": name},
        command=f"sfda compare --methods {name}",
    )


def test_a_bound_below_the_source_is_named_with_both_figures():
    note = bound_note(made(0.55).rows)
    assert "(macro accuracy 55.00 % and 60.00 %)" in note
    assert "--epochs" in note
    assert bound_note(made(0.95).rows) == ""
    assert note in comparison_page(made(0.55))


def test_the_page_names_the_best_method_and_never_the_bound_as_such():
    page = comparison_page(made(0.95))
    assert "<strong>shot: +20.0 points over the source</strong>" in page
    assert "read from the labels of this very split" in page


def test_curves_are_means_over_the_seeds_from_epoch_one():
    (first, last) = mean_curve(made(0.9).runs["shot"], "macro_accuracy")
    assert first == pytest.approx((1, 0.6))
    assert last == pytest.approx((2, 0.8))


def test_hostile_names_are_shown_and_do_nothing():
    report = made(0.95, HOSTILE)
    page = comparison_page(report)
    assert "<script" not in page
    assert "\u202e" not in page
    Image.open(io.BytesIO(comparison_plot(report))).verify()
