"""A report in words: source and adapted model side by side, as markdown."""

from __future__ import annotations

import json

from sfda.decision.change import ChangeCounts, ChangeReport
from sfda.problems.report_metrics import score_of
from sfda.refs import SideBySide


def report_text(sides: SideBySide, title: str) -> str:
    """The comparison as markdown: overall, then by class with counts."""
    assert sides.source is not None
    assert sides.adapted is not None
    rows = [
        f"| {name.replace('_', ' ')} | {before:.4f} | {sides.adapted.metrics[name]:.4f} |"
        for name, before in sides.source.metrics.items()
    ]
    after = sides.adapted.per_class
    scored = score_of(sides.source.metrics)
    unit, score = scored.unit, scored.score
    classes = [
        f"| {name} | {int(row[unit])} | {_share(row, score)} | {_share(after[name], score)} |"
        for name, row in sides.source.per_class.items()
    ]
    above = ""
    if sides.reject is not None:
        above = f' Both answer "unknown" where their uncertainty is above {sides.reject:.3f}.'
    note = f" {sides.source.note}." if sides.source.note else ""
    unit_name, score_name = _unit_name(unit), _unit_name(score)
    return "\n".join(
        [
            f"### {title}",
            "",
            f"Split `{sides.split}`, {sides.source.count} {scored.rows}.{above}{note}",
            "",
            "| metric | source | adapted |",
            "|---|---:|---:|",
            *rows,
            "",
            f"| class | {unit_name} | source {score_name} | adapted {score_name} |",
            "|---|---:|---:|---:|",
            *classes,
        ]
    )


def _unit_name(word: str) -> str:
    return {"count": "images", "iou": "IoU"}.get(word, word)


def _share(scores: dict[str, float], score: str) -> str:
    return f"{scores[score]:.1%}" if score in scores else "none"


def report_tag(sides: SideBySide) -> str:
    """The report as it is kept with a version: scalars alone."""
    return json.dumps(
        {
            "split": sides.split,
            "source": sides.source.metrics if sides.source else None,
            "adapted": sides.adapted.metrics if sides.adapted else None,
        }
    )


ROWS_SHOWN = 20  # classes or groups of a table


def change_text(change: ChangeReport) -> str:
    """How many answers change, overall, by class and by group, as markdown."""
    parts = [change.text() + "."]
    tables = {"class, by the model before": change.by_class, "group": change.by_group}
    for title, counts in tables.items():
        if rows := _change_rows(counts):
            head = f"| {title} | {change.units} | changed |"
            parts.append("\n".join([head, "|---|---:|---:|", *rows]))
    return "\n\n".join(parts)


def _change_rows(counts: ChangeCounts) -> list[str]:
    shown = [(name, pair) for name, pair in counts.items() if pair[0]][:ROWS_SHOWN]
    rows = [f"| {name} | {every} | {changed / every:.1%} |" for name, (every, changed) in shown]
    if more := len(counts) - len(shown):
        rows.append(f"| and {more} more | | |")
    return rows
