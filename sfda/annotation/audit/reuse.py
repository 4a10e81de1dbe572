"""Answers are facts about images: those of an earlier audit count for another candidate, too."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from sfda.annotation.audit.answers import taken_answers
from sfda.annotation.audit.evidence import x_of_unit
from sfda.annotation.audit.questions import AuditRequest, KnownAnswer, read_audit
from sfda.decision.audit import AuditPlan, remaining
from sfda.decision.change import PoolChange
from sfda.errors import BadInput
from sfda.measures.change import ImageUnits, Unit
from sfda.refs import SplitRef

FEW_UNITS = 2000  # of an image, that are compared one by one
Fact = tuple[str, tuple[float, ...], str]  # row id, spot, subject
Facts = dict[Fact, str]


class KnownUnit(NamedTuple):
    """A changed unit of the pool by its number, and what an earlier audit says of it."""

    number: int
    row: int
    unit: Unit
    answer: str


def earlier_facts(folders: Iterable[Path], target: SplitRef) -> Facts:
    """What earlier audits in these folders know of images. Raises BadInput for other images, or
    where two of them say different things.
    """
    facts: Facts = {}
    for folder in folders:
        request = read_audit(folder)
        if request.target.seen != target.seen:
            raise BadInput(f"{folder} asks about other images than this audit; leave out --before")
        for fact, answer in _facts_of(request, taken_answers(folder, request).answers):
            if facts.setdefault(fact, answer) != answer and request.question != "place":
                raise BadInput(f"{folder} and another one answer otherwise about row {fact[0]}")
    return facts


def _facts_of(request: AuditRequest, answers: Mapping[str, str]) -> Iterator[tuple[Fact, str]]:
    for known in request.known:
        yield (known.row, known.spot, known.subject), known.answer
    for one in request.questions:
        if one.id in answers:
            yield (one.row, one.spot, one.subject), answers[one.id]


def known_units(facts: Facts, row_ids: tuple[str, ...], change: PoolChange) -> list[KnownUnit]:
    """The changed units that `facts` speak of."""
    counts: list[int] = change.changed.tolist()
    rows = {name: row for row, name in enumerate(row_ids)}
    by_row: dict[int, Facts] = {}
    for fact, answer in facts.items():
        row = rows.get(fact[0])
        if row is not None and counts[row]:
            by_row.setdefault(row, {})[fact] = answer
    starts = [0, *itertools.accumulate(counts)]
    return [
        KnownUnit(starts[row] + nth, row, unit, by_row[row][row_ids[row], unit.spot, unit.subject])
        for row, image in (change.look(sorted(by_row)) if by_row else ())
        for nth, unit in _those_known(image, {fact[1:] for fact in by_row[row]})
    ]


def _those_known(
    image: ImageUnits, known: set[tuple[tuple[float, ...], str]]
) -> Iterator[tuple[int, Unit]]:
    """The changed units of an image that are known, with their numbers: one by one, or of many
    pixels, which come row by row, by bisection.
    """
    if image.changed <= FEW_UNITS:
        units = map(image.unit, range(image.changed))
        yield from ((n, unit) for n, unit in enumerate(units) if (unit.spot, unit.subject) in known)
        return
    for spot, subject in sorted(known):
        nth = _position(image, spot)
        if nth < image.changed and (unit := image.unit(nth))[:2] == (spot, subject):
            yield nth, unit


def _position(image: ImageUnits, spot: tuple[float, ...]) -> int:
    """The first changed unit at a pixel, or after it row by row."""
    return _bisect(image.changed, lambda nth: image.unit(nth).spot[::-1] >= spot[::-1])


def _bisect(size: int, holds: Callable[[int], bool]) -> int:
    """The first number for which something holds that holds for all after it; `size` for none."""
    low, high = 0, size
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return low


def as_known(known: Iterable[KnownUnit], row_ids: tuple[str, ...]) -> tuple[KnownAnswer, ...]:
    """The same as `audit.json` has it."""
    return tuple(
        KnownAnswer(
            row=row_ids[one.row],
            spot=one.unit.spot,
            subject=one.unit.subject,
            first=one.unit.first,
            second=one.unit.second,
            reach=one.unit.reach,
            answer=one.answer,
        )
        for one in known
    )


def plan_after(plan: AuditPlan, problem: str, known: Iterable[KnownUnit]) -> AuditPlan:
    """The plan of the units that are left."""
    return remaining(plan, [x_of_unit(problem, one.unit, one.answer) for one in known])
