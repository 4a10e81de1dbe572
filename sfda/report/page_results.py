"""What a page shows of results: metrics side by side, curves, changes and shares of the classes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from sfda.adaptation.run_folder import History
from sfda.decision.change import ChangeCounts, ChangeReport
from sfda.problems.report_metrics import main_metric, metrics_of, score_of
from sfda.refs import Report, SideBySide
from sfda.report.charts import Line, legend, line_chart, reliability_chart, share_bars
from sfda.report.page_parts import (
    Html,
    Piece,
    data_table,
    difference,
    element,
    image,
    joined,
)

MOST_CHARTS = 12
MOST_CONFUSIONS = 15
SHARES_OPEN = 20


def side_by_side_part(sides: SideBySide, picture: bytes | None) -> Iterator[Piece]:
    """Both models on one labelled split: metrics, classes, confusions and reliability."""
    before, after = sides.source, sides.adapted
    if before is None or after is None:
        text = "The target has no labels for a test, so neither model could be measured."
        yield element("p", text)
        return
    rows = score_of(before.metrics).rows
    text = f"Split {sides.split}, {before.count:,} {rows}."
    if sides.reject is not None:
        text += f' Both answer "unknown" where their uncertainty is above {sides.reject:.3f}.'
    yield element("p", text, *([f" {before.note}."] if before.note else []))
    yield metric_rows(before, after)
    yield element("h3", f"By class: {score_of(before.metrics).label} in %, largest moves first")
    yield class_rows(before, after)
    if picture is not None:
        yield image(picture, "scores by class and confusion matrices of both models")
    if confused := confusion_rows(before, after):
        yield element("h3", "What is taken for what")
        yield confused
    if before.reliability and after.reliability:
        yield element("h3", "Reliability")
        yield legend(("source", "adapted"))
        bins = {"source": before.reliability, "adapted": after.reliability}
        yield reliability_chart(bins)


def metric_rows(before: Report, after: Report) -> Html:
    """Every metric of both models; of those in bold more is better, and the first decides."""
    main, shown = main_metric(before.metrics), metrics_of(before.metrics)
    order = [main, *(m for m in shown if m != main)]
    order += [name for name in before.metrics if name not in order]
    rows: list[Sequence[Piece]] = []
    for name in order:
        one, other = before.metrics[name], after.metrics[name]
        words = name.replace("_", " ")
        judged = name in shown
        rows.append(
            (
                element("b", words) if judged else words,
                f"{one:.4f}",
                f"{other:.4f}",
                difference(other - one, digits=4, judged=judged),
            )
        )
    return data_table(("metric", "source", "adapted", "difference"), rows)


def class_rows(before: Report, after: Report) -> Html:
    """The score of every class, those first whose score moved most."""
    scored = score_of(before.metrics)
    unit = {"count": scored.rows}.get(scored.unit, scored.unit)

    def moved(name: str) -> float | None:
        pair = [side.per_class[name].get(scored.score) for side in (before, after)]
        return None if None in pair else float(pair[1] or 0) - float(pair[0] or 0)

    names = sorted(before.per_class, key=lambda name: -abs(moved(name) or 0.0))
    rows: list[Sequence[Piece]] = []
    for name in names:
        one, other = before.per_class[name], after.per_class[name]
        gain = moved(name)
        rows.append(
            (
                name,
                f"{int(one[scored.unit]):,}",
                _percent(one.get(scored.score)),
                _percent(other.get(scored.score)),
                "" if gain is None else difference(100 * gain),
            )
        )
    return data_table(("class", unit, "source", "adapted", "points"), rows)


def confusion_rows(before: Report, after: Report) -> Html | None:
    """The pairs of classes that either model takes for one another most often; None without any."""
    if not before.confusion:
        return None
    names = list(before.per_class)
    names += ["background"] * (len(before.confusion) - len(names))  # missed boxes, or invented ones
    pairs = [
        (one, other, truth, answer)
        for truth, (row, row_after) in enumerate(
            zip(before.confusion, after.confusion, strict=True)
        )
        for answer, (one, other) in enumerate(zip(row, row_after, strict=True))
        if truth != answer and (one or other)
    ]
    pairs.sort(key=lambda pair: (-max(pair[:2]), pair[2:]))
    rows = [
        (names[truth], names[answer], f"{one:,}", f"{other:,}")
        for one, other, truth, answer in pairs[:MOST_CONFUSIONS]
    ]
    if not rows:
        return None
    table = data_table(("truth", "answer", "source", "adapted"), rows, words=2)
    left = len(pairs) - len(rows)
    if not left:
        return table
    return joined([table, element("p", f"and {left:,} rarer pairs", kind="soft")])


def change_tables(change: ChangeReport) -> Iterator[Piece]:
    """Which classes and groups changed most."""
    tables = {"class of the model before": change.by_class, "group": change.by_group}
    for title, counts in tables.items():
        if rows := _change_rows(counts):
            yield element("h3", f"Changed, by {title}")
            yield data_table((title.partition(" ")[0], change.units, "changed", "share"), rows)


def _change_rows(counts: ChangeCounts) -> list[Sequence[Piece]]:
    return [
        (name, f"{every:,}", f"{changed:,}", f"{100 * changed / every:.1f} %")
        for name, (every, changed) in counts.items()
        if every
    ]


def curves(history: History, chosen: int) -> Iterator[Piece]:
    """Scores by epoch, losses and the learning rate by step."""
    if not history:
        yield element("p", "No epoch was run.")
        return
    vetoed = {epoch.epoch + 1.0 for epoch in history if epoch.vetoes}
    scores = dict.fromkeys(name for epoch in history for name in epoch.scores)
    charts = []
    for name in list(scores)[:MOST_CHARTS]:
        points = [(e.epoch + 1.0, e.scores[name]) for e in history if name in e.scores]
        charts.append(
            line_chart(
                [Line(name, "after", points)],
                title=f"score: {name}",
                axis="epoch",
                ringed=chosen + 1.0,
                crossed=vetoed,
            )
        )
    losses = dict.fromkeys(name for epoch in history for name in epoch.losses)
    for name in list(losses)[:MOST_CHARTS]:
        points = [
            (float(step), value)
            for epoch in history
            for step, value in zip(epoch.steps, epoch.losses.get(name, ()), strict=False)
        ]
        charts.append(
            line_chart([Line(name, "before", points)], title=f"loss: {name}", axis="step")
        )
    rate = [(float(s), r) for e in history for s, r in zip(e.steps, e.rate, strict=True)]
    charts.append(line_chart([Line("rate", "before", rate)], title="learning rate", axis="step"))
    yield element("div", *charts, kind="charts")
    if left := max(0, len(scores) - MOST_CHARTS) + max(0, len(losses) - MOST_CHARTS):
        yield element("p", f"and {left} more, in the MLflow run", kind="soft")


def shares(pairs: Mapping[str, tuple[float, float]], units: str) -> Iterator[Piece]:
    """Each class's share of the answers of both models, those first that moved most."""
    order = sorted(pairs, key=lambda name: -abs(pairs[name][1] - pairs[name][0]))
    yield element("p", f"Of all {units} that each model answers; the largest moves first.")
    yield legend(("before", "candidate"))
    yield share_bars({name: pairs[name] for name in order[:SHARES_OPEN]})
    if rest := order[SHARES_OPEN:]:
        bars = share_bars({name: pairs[name] for name in rest})
        yield element("details", element("summary", f"{len(rest):,} more"), bars)


def _percent(share: float | None) -> str:
    return "none" if share is None else f"{100 * share:.1f}"
