"""The model card of a registered version: what it is, where it comes from, how good it is."""

from __future__ import annotations

import re

from sfda.problems.report_metrics import main_metric, metrics_of
from sfda.refs import ModelRef, SideBySide
from sfda.report.page import RunReport, warnings_of
from sfda.report.page_parts import ODD

LONGEST_CARD = 5000  # characters: stores of MLflow take no more
CLASSES_NAMED = 30
MARKS = re.compile(r"([\\`*_{}\[\]<>()#+!|~$&-])")


def model_card(report: RunReport, model: ModelRef) -> str:
    """The card as markdown, in which names of files and classes are text and nothing else."""
    outcome, classes = report.outcome, model.classes
    names = ", ".join(map(unmarked, classes[:CLASSES_NAMED]))
    more = f" and {len(classes) - CLASSES_NAMED} more" if len(classes) > CLASSES_NAMED else ""
    lines = [
        f"# {unmarked(outcome.version)}",
        "",
        unmarked(f"At its registration: {outcome.sentence}"),
        "",
        f"- problem: {unmarked(model.problem)}, network {unmarked(model.arch)}",
        f"- classes: {len(classes)} ({names}{more})",
        *(f"- {unmarked(name)}: {unmarked(value)}" for name, value in report.lineage.items()),
        "",
        *_metrics(report.sides),
    ]
    if warnings := list(warnings_of(report)):
        lines += ["", "## Warnings", "", *(f"- {unmarked(text)}" for text in warnings)]
    text = "\n".join(lines)
    return text if len(text) <= LONGEST_CARD else text[: LONGEST_CARD - 2] + "\n…"


def _metrics(sides: SideBySide) -> list[str]:
    if sides.source is None or sides.adapted is None:
        return ["The target has no labels for a test: how good it is there is not known."]
    before, after = sides.source.metrics, sides.adapted.metrics
    shown = dict.fromkeys((main_metric(before), *metrics_of(before)))
    return [
        f"On split {unmarked(str(sides.split))}, {sides.source.count:,} rows:",
        "",
        "| metric | source | this version |",
        "|---|---:|---:|",
        *(f"| {unmarked(name)} | {before[name]:.4f} | {after[name]:.4f} |" for name in shown),
    ]


def unmarked(text: str) -> str:
    r"""Text in which markdown finds no mark, in one line.

    >>> unmarked("<b>*a*\n[x](y)")
    '\\<b\\>\\*a\\* \\[x\\]\\(y\\)'
    """
    line = " ".join("".join("?" if ord(sign) in ODD else sign for sign in text).split())
    return MARKS.sub(r"\\\1", line)
