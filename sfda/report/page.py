"""The report of one adaptation as a page that is one file: the verdict first, then why.

It can be sent by mail: pictures are in it, nothing is fetched and no script runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from sfda.adaptation.run_folder import History
from sfda.decision.gate import Evidence, Kind, Preference
from sfda.profiling.findings import TargetProfile
from sfda.refs import SOURCE_EPOCH, Attestation, SideBySide
from sfda.report.page_parts import (
    Html,
    Piece,
    commands,
    data_table,
    element,
    facts,
    image,
    joined,
    listing,
    section,
    whole_page,
)
from sfda.report.page_results import change_tables, curves, shares, side_by_side_part

DECIDED_BY = (
    "what changes, and what may never be",
    "scores without labels",
    "a person's answers to an audit",
    "labels of a test split",
)


@dataclass(frozen=True)
class VerdictPart:
    """What became of a candidate, and what decided it."""

    state: str  # of the run, in a word: Promoted, Better, Kept, Held, Rejected
    kind: Kind
    level: int  # of the evidence that decided
    sentence: str
    next: tuple[str, ...]  # what to type now
    version: str  # address of the candidate
    champion: str  # address of the model that it was held against
    evidence: Evidence | None  # None: it is champion already


@dataclass(frozen=True)
class RunReport:
    """All that the page of one adaptation shows."""

    title: str
    made: str  # date and time
    outcome: VerdictPart
    sides: SideBySide
    picture: bytes | None  # PNG of both models on a labelled split
    panel: bytes | None  # PNG of what changed most
    history: History
    chosen: int  # epoch, from 0, or SOURCE_EPOCH
    chosen_by: str
    cut: str | None  # what a budget of time left out, or a veto
    confinement: Attestation | None
    profile: TargetProfile | None
    lineage: Mapping[str, str]
    settings: Mapping[str, str]
    command: str  # that does the same again
    files: Mapping[str, str]  # that it names, and what they hold
    skipped: tuple[str, ...] = ()  # images that cannot be read, each with why
    guide: tuple[str, ...] = ()  # what is known of the guide, a line each


def run_page(report: RunReport) -> str:
    """The page, as HTML."""
    return whole_page(
        report.title,
        element("h1", report.title),
        element("p", report.made, kind="soft"),
        _verdict(report),
        section("Change and evidence", *_evidence(report.outcome), name="evidence"),
        section(
            "Source against adapted",
            *side_by_side_part(report.sides, report.picture),
            name="results",
        ),
        section("Curves by epoch", *_curves(report), name="curves"),
        section("What changed", _panel(report), name="changed"),
        section("Shares of the classes, before and after", *_shares(report), name="shares"),
        section("Lineage", *_lineage(report), name="lineage"),
        section("Warnings", *_warnings(report), name="warnings"),
        section(
            "How to reproduce",
            element("p", "The same data, model, version and machine give the same figures:"),
            commands([report.command]),
            *(
                joined([element("p", f"where {name} is", kind="soft"), commands([text])])
                for name, text in report.files.items()
            ),
            name="reproduce",
        ),
    )


def _verdict(report: RunReport) -> Html:
    outcome, count = report.outcome, len(list(warnings_of(report)))
    pieces: list[Piece] = [
        element("strong", outcome.state),
        element("p", outcome.sentence),
    ]
    if outcome.next:
        pieces += [element("p", "Next:", kind="soft"), commands(outcome.next)]
    if count:
        words = "1 warning" if count == 1 else f"{count} warnings"
        pieces.append(element("p", element("a", words, href="#warnings")))
    return element("div", *pieces, kind=f"verdict {outcome.kind}")


def _evidence(outcome: VerdictPart) -> Iterator[Piece]:
    evidence = outcome.evidence
    if evidence is None:
        yield element("p", "This version is the champion already: there was nothing to decide.")
        return
    rows: list[tuple[str, Piece]] = [
        ("candidate", outcome.version),
        ("held against", outcome.champion),
        ("change", evidence.change.text()),
        ("decided by", DECIDED_BY[outcome.level]),
    ]
    if evidence.pool:
        rows.append(("judged on", evidence.pool))
    rows += [("veto", text) for text in evidence.vetoes]
    if evidence.labelled:
        rows.append(("by labels", evidence.labelled.text()))
    if evidence.labelled_source:
        rows.append(("against the source", evidence.labelled_source.text()))
    rows += [(f"score: {one.family}", _preference(one)) for one in evidence.preferences]
    if evidence.rehearsed:
        rows.append(("rehearsals", evidence.rehearsed.text))
    if referee := evidence.referee:
        text = f"agrees with the candidate {referee.with_candidate} times, with the champion "
        rows.append((f"referee {referee.name}", f"{text}{referee.with_champion} times"))
    yield facts(rows)
    yield from change_tables(evidence.change)


def _preference(one: Preference) -> str:
    return f"{'for' if one.prefers else 'not for'} the candidate: {one.text()}"


def _curves(report: RunReport) -> Iterator[Piece]:
    if report.chosen == SOURCE_EPOCH:
        yield element("p", "No epoch was without a veto: the source itself was taken.")
    elif report.history:
        by = "the last one" if report.chosen_by == "last" else f"by {report.chosen_by}"
        text = f"Epoch {report.chosen + 1} of {len(report.history)} was chosen, {by}"
        yield element("p", f"{text}. It has a ring; epochs that met a veto have a cross.")
    yield from curves(report.history, report.chosen)


def _panel(report: RunReport) -> Html:
    if report.panel is None:
        return element("p", "No answer changed on the images that were looked at.")
    words = "Images whose answers changed most, with the answers of source and adapted model"
    note = element("p", f"{words}.", kind="soft")
    return joined([note, image(report.panel, words)])


def _shares(report: RunReport) -> Iterator[Piece]:
    evidence = report.outcome.evidence
    if evidence is None or not evidence.class_shares:
        yield element("p", "There are none to show: no class is answered, or nothing was decided.")
        return
    yield from shares(evidence.class_shares, evidence.change.units)


def _lineage(report: RunReport) -> Iterator[Piece]:
    yield facts(report.lineage.items())
    rows = [(name, value) for name, value in report.settings.items()]
    table = data_table(("setting", "value"), rows, words=2)
    yield element("details", element("summary", f"{len(rows)} settings"), table)


def _warnings(report: RunReport) -> Iterator[Piece]:
    texts = list(warnings_of(report))
    yield listing(texts) if texts else element("p", "There are none.")


def warnings_of(report: RunReport) -> Iterator[str]:
    """What a reader should know before he trusts the result, a sentence each."""
    evidence = report.outcome.evidence
    if report.sides.source is None:
        yield "The target has no labels for a test: what was gained is not measured."
    if evidence is not None:
        yield from (f"Veto: {text}" for text in evidence.vetoes)
        if evidence.labelled is not None and evidence.labelled.too_few:
            yield evidence.labelled.text()
        if evidence.pool:
            yield f"It was judged on {evidence.pool}."
    if report.chosen == SOURCE_EPOCH:
        yield "Every epoch met a veto, so the source itself was taken."
    for epoch in report.history:
        yield from (f"Epoch {epoch.epoch + 1}: {text}" for text in epoch.vetoes)
    if report.cut:
        yield report.cut
    if report.skipped:
        yield "Images were left out, which cannot be read: " + "; ".join(report.skipped)
    yield from (text[:1].upper() + text[1:] for text in report.guide)
    if report.confinement is not None and not report.confinement.enforced:
        yield f"The adapting process was not confined: {report.confinement.says}"
    if report.profile is not None:
        for finding in report.profile.findings:
            if finding.standing in ("against", "notice"):
                text = (
                    f"{finding.sentence}; {finding.remedy}" if finding.remedy else finding.sentence
                )
                yield text[:1].upper() + text[1:]
