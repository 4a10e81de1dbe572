"""Pictures of results, as PNG bytes."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from sfda.refs import Report

SHOWN = 40  # classes; with more the confusion matrix and the bars lose their labels


def side_by_side(source: Report, adapted: Report, *, title: str) -> bytes:
    """Accuracy by class and both confusion matrices, source left, adapted right."""
    classes = list(source.per_class)
    figure = Figure(figsize=(15, 5.2), layout="constrained")
    FigureCanvasAgg(figure)
    bars, left, right = figure.subplots(1, 3, width_ratios=[1.25, 1, 1])
    figure.suptitle(f"{title}  (split {source.split}, {source.count} images)", fontsize=12)
    _bars(bars, classes, source, adapted)
    _matrix(left, classes, source, "source")
    _matrix(right, classes, adapted, "adapted")
    return _png(figure)


def _bars(axes: Axes, classes: Sequence[str], source: Report, adapted: Report) -> None:
    """Accuracy of both models for every class that occurs."""
    place = np.arange(len(classes))
    for offset, report, name, colour in (
        (-0.2, source, "source", "#9aa5b1"),
        (0.2, adapted, "adapted", "#1f77b4"),
    ):
        heights = [100 * report.per_class[c].get("accuracy", 0.0) for c in classes]
        mean = 100 * report.metrics["macro_accuracy"]
        axes.bar(place + offset, heights, 0.4, color=colour, label=f"{name}, mean {mean:.1f} %")
    axes.set_ylim(0, 100)
    axes.set_ylabel("accuracy in %")
    axes.set_title("by class", fontsize=11)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.08), ncols=2, fontsize=9)
    if len(classes) <= SHOWN:
        axes.set_xticks(place, classes, rotation=90 if max(map(len, classes)) > 2 else 0)


def _matrix(axes: Axes, classes: Sequence[str], report: Report, name: str) -> None:
    """Rows: truth; columns: prediction; shade: share of the row."""
    counts = np.array(report.confusion, dtype=float)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    accuracy = 100 * report.metrics["overall_accuracy"]
    axes.set_title(f"{name}: overall accuracy {accuracy:.1f} %", fontsize=11)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    if len(classes) > SHOWN:
        return
    place = np.arange(len(classes))
    axes.set_xticks(place, classes, rotation=90 if max(map(len, classes)) > 2 else 0)
    axes.set_yticks(place, classes)
    if len(classes) <= 15:
        for i, row in enumerate(counts.astype(int)):
            for j, count in enumerate(row):
                if count:
                    shade = "white" if shares[i, j] > 0.5 else "black"
                    axes.text(j, i, count, ha="center", va="center", fontsize=7, color=shade)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    return buffer.getvalue()
