"""Pictures of results, as PNG bytes, and where they are kept."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from sfda.images.plotting import Axes, Figure, FigureCanvasAgg
from sfda.problems.panel_frame import NAME_LETTERS, in_lines, png, shortened
from sfda.problems.report_metrics import main_metric, score_of
from sfda.refs import Report
from sfda.state_folder import disk_errors, home

MOST_NAMED = 40  # classes of bars and of a confusion matrix; of more the others are one row
OTHERS = "all others"


def side_by_side(source: Report, adapted: Report, *, title: str) -> bytes:
    """A score by class and both confusion matrices, source left, adapted right."""
    source, adapted, more = _most_confused(source, adapted)
    if more:
        title = f"{title}, the {MOST_NAMED} classes with most errors and {more} others"
    classes = list(source.per_class)
    longest = max((len(name) for name in classes), default=0)
    matrices = bool(source.confusion)
    rows = score_of(source.metrics).rows
    size = (15 if matrices else 9, 5.2 + 0.06 * max(0, min(longest, NAME_LETTERS) - 8))
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    if not matrices:
        _bars(figure.subplots(), classes, source, adapted)
        text = f"{title}  (split {source.split}, {source.count} {rows})"
        figure.suptitle(in_lines(text, size[0]), fontsize=12)
        return png(figure)
    bars, left, right = figure.subplots(1, 3, width_ratios=[1.25, 1, 1])
    text = f"{title}  (split {source.split}, {source.count} images)"
    figure.suptitle(in_lines(text, size[0]), fontsize=12)
    _bars(bars, classes, source, adapted)
    # of boxes the last is what is missed, or invented
    rest = OTHERS if more else "background"
    _matrix(left, [*classes, rest], source, "source")
    _matrix(right, [*classes, rest], adapted, "adapted")
    return png(figure)


def _most_confused(source: Report, adapted: Report) -> tuple[Report, Report, int]:
    """The same reports where there are few classes. Of more, those with most errors of both models
    together, in their order, the others added up in one more row and column, and how many these
    are.
    """
    classes = list(source.per_class)
    if len(classes) <= MOST_NAMED:
        return source, adapted, 0
    scored = score_of(source.metrics)
    errors = np.zeros(len(classes))
    for report in (source, adapted):
        if report.confusion:
            counts = np.array(report.confusion)[: len(classes), : len(classes)]
            errors += counts.sum(0) + counts.sum(1) - 2 * counts.diagonal()
        else:
            rows = [report.per_class[name] for name in classes]
            errors += [row[scored.unit] * (1 - row.get(scored.score, 1.0)) for row in rows]
    chosen = np.sort(np.argsort(-errors, kind="stable")[:MOST_NAMED])
    parts = [_of_classes(report, chosen, classes) for report in (source, adapted)]
    return parts[0], parts[1], len(classes) - MOST_NAMED


def _of_classes(report: Report, chosen: Int[np.ndarray, " K"], classes: Sequence[str]) -> Report:
    """A report of some classes; of a confusion matrix the rest is one row and column."""
    table: list[list[int]] = []
    if report.confusion:
        counts = np.array(report.confusion)
        position_of = np.full(len(counts), len(chosen))
        position_of[chosen] = np.arange(len(chosen))
        summed = np.zeros((len(chosen) + 1,) * 2, counts.dtype)
        np.add.at(summed, (position_of[:, None], position_of[None]), counts)
        table = summed.tolist()
    rows = {classes[n]: report.per_class[classes[n]] for n in chosen}
    return report.model_copy(update={"per_class": rows, "confusion": table})


def _bars(axes: Axes, classes: Sequence[str], source: Report, adapted: Report) -> None:
    """The score of both models for every class that occurs."""
    shown = score_of(source.metrics)
    positions = np.arange(len(classes))
    for offset, report, name, colour in (
        (-0.2, source, "source", "#9aa5b1"),
        (0.2, adapted, "adapted", "#1f77b4"),
    ):
        heights = [100 * report.per_class[c].get(shown.score, 0.0) for c in classes]
        mean = 100 * report.metrics[shown.mean]
        axes.bar(positions + offset, heights, 0.4, color=colour, label=f"{name}, mean {mean:.1f} %")
    axes.set_ylim(0, 100)
    axes.set_ylabel(f"{shown.label} by class in %")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, fontsize=9, frameon=False)
    names = [shortened(name) for name in classes]
    turned = 90 if max(map(len, names), default=0) > 2 else 0
    axes.set_xticks(positions, names, rotation=turned, fontsize=_letters(classes))


def _letters(classes: Sequence[str]) -> float:
    """Size of the letters at which so many names fit beside each other."""
    return 10 if len(classes) <= 20 else 6.5


def _matrix(axes: Axes, classes: Sequence[str], report: Report, name: str) -> None:
    """Rows: truth; columns: prediction; shade: share of the row. As many of the classes are named
    as there are rows.
    """
    counts = np.array(report.confusion, dtype=float)
    classes = classes[: len(counts)]
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    overall = score_of(report.metrics).overall
    accuracy = 100 * report.metrics[overall]
    axes.set_title(f"{name}: {overall.replace('_', ' ')} {accuracy:.1f} %", fontsize=11)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    positions = np.arange(len(classes))
    names, size = [shortened(name) for name in classes], _letters(classes)
    turned = 90 if max(map(len, names)) > 2 else 0
    axes.set_xticks(positions, names, rotation=turned, fontsize=size)
    axes.set_yticks(positions, names, fontsize=size)
    if len(classes) <= 15:
        pixels = overall == "pixel_accuracy"  # too many to be written out
        for i, row in enumerate(counts.astype(int)):
            for j, count in enumerate(row):
                text = f"{100 * shares[i, j]:.0f}" if pixels else str(count)
                if count and text != "0":
                    shade = "white" if shares[i, j] > 0.5 else "black"
                    axes.text(j, i, text, ha="center", va="center", fontsize=7, color=shade)


def label_curve(rows: Sequence[Any], floor: Mapping[str, float], *, title: str) -> bytes:
    """Score against labels spent: a panel a method, a line a query, means over the seeds."""
    metric = "overall_accuracy" if "overall_accuracy" in floor else main_metric(dict(floor))
    methods = list(dict.fromkeys(row["method"] for row in rows))
    colours = {by: f"C{n}" for n, by in enumerate(dict.fromkeys(row["query"] for row in rows))}
    figure = Figure(figsize=(1.5 + 4.5 * len(methods), 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(methods), sharey=True, squeeze=False)[0]
    figure.suptitle(title, fontsize=12)
    for axes, method in zip(panels, methods, strict=True):
        own = [row for row in rows if row["method"] == method]
        for by in (by for by in colours if any(row["query"] == by for row in own)):
            spent = sorted({row["labels"] for row in own if row["query"] == by})
            values = [
                [r["metrics"][metric] for r in own if (r["query"], r["labels"]) == (by, n)]
                for n in spent
            ]
            means = [100 * float(np.mean(scores)) for scores in values]
            spreads = [100 * float(np.std(scores)) for scores in values]
            style = {"marker": "o", "capsize": 2, "color": colours[by]}
            axes.errorbar(spent, means, yerr=spreads, label=by, **style)
        axes.axhline(100 * floor[metric], color="0.6", linestyle="--", linewidth=1)
        axes.set_title(method)
        axes.set_xlabel("labels")
    panels[0].set_ylabel(f"{metric.replace('_', ' ')} %")
    panels[-1].legend(fontsize=8)
    return png(figure)


def keep_picture(name: str, content: bytes) -> str:
    """Write a PNG below home; its path."""
    picture = home() / "pictures" / f"{name}.png"
    with disk_errors(str(picture)):
        picture.parent.mkdir(parents=True, exist_ok=True)
        picture.write_bytes(content)
    return str(picture)


def data_address(picture: Path) -> str:
    """The picture itself as an address: whoever opens the page need not reach this disk."""
    return f"data:image/png;base64,{base64.b64encode(picture.read_bytes()).decode()}"
