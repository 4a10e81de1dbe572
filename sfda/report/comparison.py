"""A comparison of methods: its rows, their summaries over the seeds, and the tables of them."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from sfda.adaptation.supervised import BOUND
from sfda.config import Config
from sfda.problems.report_metrics import main_metric, metrics_of, score_of
from sfda.refs import SOURCE_EPOCH, Adaptation, Metrics, Report

SOURCE_THRESHOLD = 0.5  # at which GLC evaluates source models on open targets
GUIDE_ALONE = "guide alone"
# of which the oracle picks one
ORACLE_THRESHOLDS = tuple(round(0.02 * i, 2) for i in range(1, 50))


class EpochMetrics(Config):
    """Metrics of every epoch of one run, in order, and which was chosen without labels:
    SOURCE_EPOCH where every one has met a veto, so that the source is kept.
    """

    metrics: tuple[Metrics, ...]
    chosen: int
    change: float = 0.0  # share of the answers that what was chosen changes

    def selected(self, source: Metrics) -> Metrics:
        """Metrics of what was chosen."""
        return source if self.chosen == SOURCE_EPOCH else self.metrics[self.chosen]


class SourceOnly(Config):
    """The source model on the labelled split; on open targets also at its best threshold."""

    report: Report
    best: Report | None = None
    threshold: float | None = None


def at_thresholds(reports: dict[float, Report]) -> SourceOnly:
    """The source at the usual threshold, and at the one that the target's labels like best."""
    best = max(ORACLE_THRESHOLDS, key=lambda threshold: reports[threshold].metrics["h_score"])
    return SourceOnly(report=reports[SOURCE_THRESHOLD], best=reports[best], threshold=best)


class ComparisonRow(Config):
    """One line of the table: a method over all seeds. Every list has one entry a seed."""

    method: str
    seeds: tuple[int, ...]
    metric: str
    selected: tuple[float, ...]  # the epoch chosen without labels
    last: tuple[float, ...]
    oracle: tuple[float, ...]  # the best epoch by target labels
    source: float
    selected_epochs: tuple[int, ...]
    selected_by: str
    seconds: tuple[float, ...]
    changed: tuple[float, ...]  # share of the answers that differ from the source's

    def summary(self, bound: float | None = None) -> dict[str, Any]:
        """Means over the seeds, spread as standard deviation, regret and harm rate.

        `bound` is the supervised network's mean on the same metric.
        """
        regret = [o - s for o, s in zip(self.oracle, self.selected, strict=True)]
        return {
            "method": self.method,
            "metric": self.metric,
            "seeds": list(self.seeds),
            "selected": mean(self.selected),
            "selected_spread": spread(self.selected),
            "last": mean(self.last),
            "oracle": mean(self.oracle),
            "source": self.source,
            "bound": bound,
            "regret": mean(regret),
            "harm_rate": mean([float(s < self.source) for s in self.selected]),
            "selected_by": self.selected_by,
            "selected_epochs": [epoch + 1 for epoch in self.selected_epochs],
            "selected_values": list(self.selected),
            "last_values": list(self.last),
            "oracle_values": list(self.oracle),
            "seconds": mean(self.seconds),
            "changed": mean(self.changed),
        }


def mean(values: Sequence[float]) -> float:
    """Arithmetic mean."""
    return statistics.fmean(values)


def spread(values: Sequence[float]) -> float:
    """Standard deviation of the sample; 0 for a single value."""
    return statistics.stdev(values) if len(values) > 1 else 0.0


def method_rows(
    method: str,
    by: str,
    runs: list[tuple[int, Adaptation, EpochMetrics]],
    source: Metrics,
) -> list[ComparisonRow]:
    """One row a metric from the runs of one method: (seed, adaptation, metrics of its epochs)."""
    return [
        ComparisonRow(
            method=method,
            seeds=tuple(seed for seed, _, _ in runs),
            metric=metric,
            selected=tuple(e.selected(source)[metric] for _, _, e in runs),
            last=tuple(e.metrics[-1][metric] for _, _, e in runs),
            oracle=tuple(max(m[metric] for m in e.metrics) for _, _, e in runs),
            source=source[metric],
            selected_epochs=tuple(e.chosen for _, _, e in runs),
            selected_by=by,
            seconds=tuple(a.seconds for _, a, _ in runs),
            changed=tuple(e.change for _, _, e in runs),
        )
        for metric in metrics_of(source)
    ]


def source_rows(source: SourceOnly) -> list[ComparisonRow]:
    """The source model's own rows, and for open targets those with the best fixed threshold."""
    versions = [("source", source.report.metrics)]
    if source.best is not None:
        versions = [
            (f"source, rejects above {SOURCE_THRESHOLD}", source.report.metrics),
            (f"source, rejects above {source.threshold} (oracle)", source.best.metrics),
        ]
    before = source.report.metrics
    return [row for name, metrics in versions for row in _fixed_rows(name, metrics, before, 0.0)]


def guide_rows(report: Report, change: float, source: Metrics) -> list[ComparisonRow]:
    """What a guide's own answers are worth; `change` is the share other than the source's."""
    return _fixed_rows(GUIDE_ALONE, report.metrics, source, change)


def _fixed_rows(name: str, metrics: Metrics, source: Metrics, change: float) -> list[ComparisonRow]:
    """Rows of what no epoch was chosen of."""
    return [
        ComparisonRow(
            method=name,
            seeds=(0,),
            metric=metric,
            selected=(metrics[metric],),
            last=(metrics[metric],),
            oracle=(metrics[metric],),
            source=source[metric],
            selected_epochs=(0,),
            selected_by="labels" if "oracle" in name else "nothing",
            seconds=(0.0,),
            changed=(change,),
        )
        for metric in metrics_of(metrics)
    ]


def row_summaries(rows: list[ComparisonRow]) -> list[dict[str, Any]]:
    """All rows with the supervised bound beside them, where it was asked for."""
    bounds = {row.metric: mean(row.last) for row in rows if row.method == BOUND}
    return [row.summary(bounds.get(row.metric)) for row in rows]


def bound_note(rows: list[dict[str, Any]]) -> str:
    """What is wrong with a supervised bound that is below the source, by the metric that decides;
    '' where nothing is.
    """
    main = main_metric(dict.fromkeys((row["metric"] for row in rows), 0.0))
    for row in rows:
        bound, source = row["bound"], row["source"]
        if row["metric"] == main and bound is not None and bound < source:
            words = main.replace("_", " ")
            return (
                f"The supervised bound is below the source ({words} {100 * bound:.2f} % and "
                f"{100 * source:.2f} %), so it bounds nothing: it has learnt for too few epochs, "
                "or from too few labels; state more with --epochs"
            )
    return ""


def metric_table(rows: list[dict[str, Any]], metric: str) -> str:
    """The rows of one metric as markdown, in percent."""
    lines = [
        f"| method | chosen by | {metric.replace('_', ' ')} % | last epoch | oracle "
        "| source only | supervised bound | regret | harm rate | answers changed | seeds |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in (r for r in rows if r["metric"] == metric):
        cells = (
            row["method"],
            row["selected_by"],
            f"{100 * row['selected']:.2f} ± {100 * row['selected_spread']:.2f}",
            f"{100 * row['last']:.2f}",
            f"{100 * row['oracle']:.2f}",
            f"{100 * row['source']:.2f}",
            "" if row["bound"] is None else f"{100 * row['bound']:.2f}",
            f"{100 * row['regret']:.2f}",
            f"{row['harm_rate']:.2f}",
            f"{100 * row['changed']:.1f} %",
            str(len(row["seeds"])),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def counts_text(report: Report) -> str:
    """How many test images each class has, or how many pixels."""
    unit = score_of(report.metrics).unit
    counts = [f"{name} {int(row[unit])}" for name, row in report.per_class.items()]
    return f"Split `{report.split}`, {report.count} images: {', '.join(counts)}."
