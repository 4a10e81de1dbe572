"""Comparison of methods: metrics of every epoch, with labels; here alone, and after all choices."""

from __future__ import annotations

import shutil
import statistics
from pathlib import Path
from typing import Any

from prefect import task

from sfda.adaptation.supervised import BOUND
from sfda.building_blocks.device import DeviceName
from sfda.config import Config
from sfda.problems.classification.metrics import main_metric, score_of
from sfda.refs import Adaptation, LabelledSplit, ManifestRef, Metrics, ModelRef, Report
from tasks.evaluate import evaluate_model, evaluate_thresholds
from tasks.prefect_runtime.cache import SameWork
from tasks.prefect_runtime.retry import SERVERS

CLOSED = ("overall_accuracy", "macro_accuracy")
OPEN = ("h_score", "os_star", "unk", "os")
POSES = ("pck_at_0.1", "pck_at_0.2", "oks_ap")
BOXES = ("coco_ap50", "coco_ap", "voc07_ap50")
MASKS = ("mean_iou", "mean_dice", "pixel_accuracy")
SOURCE_THRESHOLD = 0.5  # at which GLC evaluates source models on open targets
GRID = tuple(round(0.02 * i, 2) for i in range(1, 50))  # thresholds the oracle may pick from


class WeightsGone(Exception):
    """The weights of an earlier comparison were deleted and its metrics do not serve this one."""


class Epochs(Config):
    """Metrics of every epoch of one run, in order, and of the one chosen without labels."""

    metrics: tuple[Metrics, ...]
    chosen: int


@task(
    name="evaluation of all epochs",
    cache_policy=SameWork(),
    persist_result=True,
    result_serializer="json",
    **SERVERS,
)
def evaluate_epochs(
    source: ModelRef,
    adaptation: Adaptation,
    chosen: int,
    manifest: ManifestRef,
    split: LabelledSplit,
    device: DeviceName = "auto",
) -> Epochs:
    """Metrics of every epoch on the labelled split; then all weights but the chosen are deleted.

    Raises WeightsGone where an earlier comparison has deleted them.
    """
    folder = Path(adaptation.folder)
    found = []
    for candidate in adaptation.candidates:
        weights = folder / f"epoch-{candidate.epoch:04d}"
        if not weights.is_dir():
            raise WeightsGone(str(weights))
        ref = source.model_copy(update={"uri": str(weights), "sha256": candidate.sha256})
        found.append(evaluate_model(ref, manifest, split.name, device).metrics)
    (folder / "state.pt").unlink(missing_ok=True)  # it would resume a run whose weights are gone
    for candidate in adaptation.candidates:
        if candidate.epoch != chosen:
            shutil.rmtree(folder / f"epoch-{candidate.epoch:04d}", ignore_errors=True)
    return Epochs(metrics=tuple(found), chosen=chosen)


class SourceOnly(Config):
    """The source model on the labelled split; on open targets also at its best threshold."""

    report: Report
    best: Report | None = None
    threshold: float | None = None


@task(
    name="evaluation of the source",
    cache_policy=SameWork(),
    persist_result=True,
    result_serializer="json",
    **SERVERS,
)
def evaluate_source(
    source: ModelRef, manifest: ManifestRef, split: LabelledSplit, device: DeviceName = "auto"
) -> SourceOnly:
    """The floor of a comparison. Where there are unknown samples it rejects at 0.5, as GLC's does,
    and stands a second time with the fixed threshold that the target's labels like best.
    """
    found = evaluate_model(source, manifest, split.name, device)
    if main_metric(found.metrics) != "h_score":
        return SourceOnly(report=found)
    at = evaluate_thresholds(source, manifest, split.name, (*GRID, SOURCE_THRESHOLD), device)
    best = max(GRID, key=lambda threshold: at[threshold].metrics["h_score"])
    return SourceOnly(report=at[SOURCE_THRESHOLD], best=at[best], threshold=best)


class Row(Config):
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
        }


def mean(values: Any) -> float:
    """Arithmetic mean."""
    return statistics.fmean(values)


def spread(values: Any) -> float:
    """Standard deviation of the sample; 0 for a single value."""
    return statistics.stdev(values) if len(values) > 1 else 0.0


def make_rows(
    method: str,
    by: str,
    runs: list[tuple[int, Adaptation, Epochs]],
    source: Metrics,
) -> list[Row]:
    """One row a metric from the runs of one method: (seed, adaptation, metrics of its epochs)."""
    return [
        Row(
            method=method,
            seeds=tuple(seed for seed, _, _ in runs),
            metric=metric,
            selected=tuple(e.metrics[e.chosen][metric] for _, _, e in runs),
            last=tuple(e.metrics[-1][metric] for _, _, e in runs),
            oracle=tuple(max(m[metric] for m in e.metrics) for _, _, e in runs),
            source=source[metric],
            selected_epochs=tuple(e.chosen for _, _, e in runs),
            selected_by=by,
            seconds=tuple(a.seconds for _, a, _ in runs),
        )
        for metric in metrics_of(source)
    ]


def metrics_of(found: Metrics) -> tuple[str, ...]:
    """What a comparison shows: of pixels, or other figures where there are unknown samples."""
    kinds = {"h_score": OPEN, "mean_iou": MASKS, "coco_ap50": BOXES, "pck_at_0.1": POSES}
    return kinds.get(main_metric(found), CLOSED)


def source_rows(source: SourceOnly) -> list[Row]:
    """The source model's own rows, and for open targets those with the best fixed threshold."""
    found = [("source", source.report.metrics)]
    if source.best is not None:
        found = [
            (f"source, rejects above {SOURCE_THRESHOLD}", source.report.metrics),
            (f"source, rejects above {source.threshold} (oracle)", source.best.metrics),
        ]
    return [
        Row(
            method=name, seeds=(0,), metric=metric, selected=(metrics[metric],),
            last=(metrics[metric],), oracle=(metrics[metric],),
            source=source.report.metrics[metric], selected_epochs=(0,),
            selected_by="labels" if "oracle" in name else "nothing", seconds=(0.0,),
        )
        for name, metrics in found
        for metric in metrics_of(metrics)
    ]  # fmt: skip


def summaries(rows: list[Row]) -> list[dict[str, Any]]:
    """All rows with the supervised bound beside them, where it was asked for."""
    bounds = {row.metric: mean(row.last) for row in rows if row.method == BOUND}
    return [row.summary(bounds.get(row.metric)) for row in rows]


def table(rows: list[dict[str, Any]], metric: str) -> str:
    """The rows of one metric as markdown, in percent."""
    lines = [
        f"| method | chosen by | {metric.replace('_', ' ')} % | last epoch | oracle "
        "| source only | supervised bound | regret | harm rate | seeds |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|",
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
            str(len(row["seeds"])),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def counts_text(found: Report) -> str:
    """How many test images each class has, or how many pixels."""
    unit, _ = score_of(found.metrics)
    counts = [f"{name} {int(row[unit])}" for name, row in found.per_class.items()]
    return f"Split `{found.split}`, {found.count} images: {', '.join(counts)}."
