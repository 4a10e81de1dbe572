"""A comparison of methods as a page and a plot: what each gained over the source, and when."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sfda.adaptation.supervised import BOUND
from sfda.images.plotting import Figure, FigureCanvasAgg
from sfda.problems.panel_frame import in_lines, png, shortened
from sfda.problems.report_metrics import main_metric, metrics_of
from sfda.refs import Metrics
from sfda.report.charts import STROKES, Line, legend, line_chart
from sfda.report.comparison import EpochMetrics, bound_note, mean
from sfda.report.page_parts import (
    Html,
    Piece,
    commands,
    data_table,
    difference,
    element,
    facts,
    image,
    section,
    whole_page,
)

RunsOf = Mapping[str, Sequence[EpochMetrics]]  # of each method, one a seed


@dataclass(frozen=True)
class ComparisonReport:
    """All that the page of a comparison shows."""

    title: str
    made: str  # date and time
    counts: str  # how much of what the test split has
    rows: list[dict[str, Any]]  # of all methods and metrics
    source: Metrics
    runs: RunsOf
    lineage: Mapping[str, str]
    command: str

    @property
    def metrics(self) -> tuple[str, ...]:
        """Those shown, the one that decides first."""
        main = main_metric(self.source)
        return (main, *(name for name in metrics_of(self.source) if name != main))


def comparison_page(report: ComparisonReport) -> str:
    """The page, as HTML."""
    note = bound_note(report.rows)
    main, plot = report.metrics[0], comparison_plot(report)
    return whole_page(
        report.title,
        element("h1", report.title),
        element("p", report.made, kind="soft"),
        element("div", *_summary(report, note), kind="verdict"),
        section(
            "Methods",
            element("p", report.counts.replace("`", ""), kind="soft"),
            *(piece for metric in report.metrics for piece in _table(report, metric)),
            image(plot, f"{_words(main)} of all methods"),
            name="methods",
        ),
        section("Curves by epoch", *_curves(report), name="curves"),
        section("Lineage", facts(report.lineage.items()), name="lineage"),
        section("How to reproduce", commands([report.command]), name="reproduce"),
    )


def _summary(report: ComparisonReport, note: str) -> Iterator[Piece]:
    main = report.metrics[0]
    free = [
        row
        for row in report.rows
        if row["metric"] == main and row["method"] in report.runs and row["method"] != BOUND
    ]
    if free:
        best = max(free, key=lambda row: row["selected"])
        gain = 100 * (best["selected"] - best["source"])
        yield element("strong", f"{best['method']}: {gain:+.1f} points over the source")
        yield element(
            "p",
            f"{_words(main)} {100 * best['selected']:.2f} % where the source has "
            f"{100 * best['source']:.2f} %, at epochs that were chosen by {best['selected_by']}. "
            "Which method is best was read from the labels of this very split.",
        )
    else:
        yield element("strong", "No method was compared")
    if note:
        yield element("p", note, kind="worse")


def _table(report: ComparisonReport, metric: str) -> Iterator[Piece]:
    head = ("method", "chosen by", "chosen", "± seeds", "over source", "last", "oracle", "regret")
    lines = [
        (
            row["method"],
            row["selected_by"],
            f"{100 * row['selected']:.2f}",
            f"{100 * row['selected_spread']:.2f}",
            difference(100 * (row["selected"] - row["source"]), digits=2),
            f"{100 * row['last']:.2f}",
            f"{100 * row['oracle']:.2f}",
            f"{100 * row['regret']:.2f}",
            f"{row['harm_rate']:.2f}",
            f"{100 * row['changed']:.1f}",
            ", ".join(map(str, row["selected_epochs"])) if row["method"] in report.runs else "",
        )
        for row in report.rows
        if row["metric"] == metric
    ]
    yield element("h3", f"{_words(metric)} in %")
    yield data_table((*head, "harm rate", "changed %", "epochs"), lines, words=2)


def _curves(report: ComparisonReport) -> Iterator[Piece]:
    """The mean over the seeds after every epoch, the first being 1; the source is dashed."""
    colours = [*STROKES[1:], *(f"{stroke} dash" for stroke in STROKES[1:])]
    yield legend(["source", *report.runs], ["before", *STROKES[1:], *STROKES[1:]])
    charts: list[Html] = []
    for metric in report.metrics:
        lines = [
            Line(name, colour, mean_curve(runs, metric))
            for (name, runs), colour in zip(report.runs.items(), colours, strict=False)
        ]
        longest = max((len(line.points) for line in lines), default=1)
        level = report.source[metric]
        source = Line("source", "before dash", [(1.0, level), (float(longest), level)])
        title = f"{_words(metric)}, mean over the seeds"
        charts.append(line_chart([source, *lines], title=title, axis="epoch"))
    yield element("div", *charts, kind="charts")


def mean_curve(runs: Sequence[EpochMetrics], metric: str) -> list[tuple[float, float]]:
    """(epoch, mean over the seeds), from 1, up to the shortest run's end."""
    epochs = min((len(run.metrics) for run in runs), default=0)
    return [(n + 1.0, mean([run.metrics[n][metric] for run in runs])) for n in range(epochs)]


def comparison_plot(report: ComparisonReport) -> bytes:
    """A PNG of every method's chosen epochs, a dot a seed, and of the best epoch by labels, beside
    the source and the supervised bound.
    """
    main = report.metrics[0]
    rows = [row for row in report.rows if row["metric"] == main and row["method"] in report.runs]
    figure = Figure(figsize=(8.5, 1.6 + 0.36 * max(1, len(rows))), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(in_lines(report.title, 8.5), fontsize=12)
    axes = figure.subplots()
    for height, row in enumerate(rows):
        values = [100 * value for value in row["selected_values"]]
        oracle = [100 * value for value in row["oracle_values"]]
        heights = [height] * len(values)
        axes.scatter(oracle, heights, marker="|", s=120, color="#e07b00", label="best by labels")
        axes.scatter(values, heights, s=32, color="#1f77b4", label="chosen without labels")
    axes.axvline(100 * report.source[main], color="#8a95a1", linestyle="--", label="source")
    bound = next((row["bound"] for row in rows if row["bound"] is not None), None)
    if bound is not None:
        axes.axvline(100 * bound, color="#2ca02c", linestyle=":", label="supervised bound")
    axes.set_yticks(range(len(rows)), [shortened(row["method"]) for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlabel(f"{_words(main)} in %")
    axes.grid(axis="x", alpha=0.3)
    handles, labels = axes.get_legend_handles_labels()
    named = dict(zip(labels, handles, strict=True))
    figure.legend(named.values(), named.keys(), loc="outside lower center", ncols=4, fontsize=9)
    return png(figure)


def _words(metric: str) -> str:
    return metric.replace("_", " ")
