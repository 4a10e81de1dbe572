"""A search as a table and as a page: candidates in their order, and what speaks for each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from sfda.adaptation.run_folder import History
from sfda.decision.ranking import Ranked, Ranking
from sfda.report.charts import STROKES, Line, legend, line_chart
from sfda.report.page_parts import (
    Piece,
    commands,
    data_table,
    element,
    facts,
    listing,
    section,
    whole_page,
)

MOST_ROWS = 30


@dataclass(frozen=True)
class TrialLine:
    """One trial as the page shows it."""

    name: str
    chosen: int | None  # epoch, from 0; None: every one met a veto
    chosen_by: str  # the score that chose, or last
    vetoes: Sequence[str]
    seconds: float
    history: History


@dataclass(frozen=True)
class SearchReport:
    """All that the page of a search shows."""

    title: str
    made: str  # date and time
    state: str  # of the run, in a word
    kind: str  # of the verdict; the source's is keep
    sentence: str
    next: Sequence[str]  # what to type now
    ranking: Ranking
    trials: Sequence[TrialLine]
    left_out: Sequence[str]  # trials for which there was no time
    lineage: Mapping[str, str]
    command: str  # that does the same again
    files: Mapping[str, str]  # that it names, and what they hold


def trials_text(ranking: Ranking, left_out: Sequence[str]) -> str:
    """The ranking as markdown, the best first; trials for which there was no time below it."""
    names = _scores_in(ranking)
    lines = [
        "| candidate | mean rank | " + " | ".join(names) + " | vetoes |",
        "|---|---:|" + "---:|" * len(names) + "---|",
    ]
    shown = ranking.candidates[:MOST_ROWS]
    lines += ["| " + " | ".join(map(_cell, _cells(one, names))) + " |" for one in shown]
    if more := len(ranking.candidates) - MOST_ROWS:
        lines += ["", f"and {more} more"] if more > 0 else []
    if left_out:
        lines += ["", f"no time was left for: {', '.join(left_out)}"]
    return "\n".join([*lines, "", ranking.text])


def _scores_in(ranking: Ranking) -> list[str]:
    return list(dict.fromkeys(score for one in ranking.candidates for score in one.scores))


def _cells(one: Ranked, names: Sequence[str]) -> list[str]:
    scores = [f"{one.scores[name]:.4f}" if name in one.scores else "" for name in names]
    mean = "" if one.mean_rank is None else f"{one.mean_rank:.2f}"
    return [one.name, mean, *scores, "; ".join(one.vetoes)]


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def search_page(report: SearchReport) -> str:
    """The page, as HTML: one file that fetches nothing, the verdict first."""
    names = _scores_in(report.ranking)
    rows = [_cells(one, names) for one in report.ranking.candidates]
    note = "Without labels, the source among the candidates; 1 is the first place of every score."
    return whole_page(
        report.title,
        element("h1", report.title),
        element("p", report.made, kind="soft"),
        _verdict(report),
        section(
            "Ranking",
            element("p", note, kind="soft"),
            data_table(("candidate", "mean rank", *names, "vetoes"), rows),
            name="ranking",
        ),
        section("Trials", *_trials(report), name="trials"),
        section("Curves by epoch", *_curves(report.trials), name="curves"),
        section("Lineage", facts(report.lineage.items()), name="lineage"),
        section("How to reproduce", *_again(report), name="reproduce"),
    )


def _verdict(report: SearchReport) -> Piece:
    pieces: list[Piece] = [element("strong", report.state), element("p", report.sentence)]
    if report.next:
        pieces += [element("p", "Next:", kind="soft"), commands(report.next)]
    return element("div", *pieces, kind=f"verdict {report.kind}")


def _again(report: SearchReport) -> Iterator[Piece]:
    yield commands([report.command])
    for name, text in report.files.items():
        yield element("p", f"where {name} is", kind="soft")
        yield commands([text])


def _trials(report: SearchReport) -> Iterator[Piece]:
    rows = [
        (
            one.name,
            "last" if one.chosen_by == "last" else f"by {one.chosen_by}",
            "none" if one.chosen is None else str(one.chosen + 1),
            str(len(one.history)),
            f"{one.seconds:.1f}",
        )
        for one in report.trials
    ]
    yield data_table(("trial", "chosen", "epoch", "of", "seconds"), rows, words=2)
    vetoes = [f"{one.name}: {text}" for one in report.trials for text in one.vetoes]
    if vetoes:
        yield element("p", "Vetoes that epochs met:")
        yield listing(vetoes)
    if report.left_out:
        yield element("p", f"No time was left for: {', '.join(report.left_out)}.", kind="worse")


def _curves(trials: Sequence[TrialLine]) -> Iterator[Piece]:
    """What every trial's epochs scored, a chart a score; epochs count from 1."""
    colours = [*STROKES[1:], *(f"{stroke} dash" for stroke in STROKES[1:])]
    yield legend([one.name for one in trials], colours)
    scores = dict.fromkeys(name for one in trials for epoch in one.history for name in epoch.scores)
    charts = [
        line_chart(
            [
                Line(
                    one.name,
                    colour,
                    [(e.epoch + 1.0, e.scores[score]) for e in one.history if score in e.scores],
                )
                for one, colour in zip(trials, colours, strict=False)
            ],
            title=score,
            axis="epoch",
        )
        for score in scores
    ]
    yield element("div", *charts, kind="charts")
