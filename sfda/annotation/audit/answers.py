"""People's answers to an audit: checked as a whole, then put into its folder in one step."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from sfda.annotation.audit.exports import AnswersPart, UncheckedAnswer, read_answers
from sfda.annotation.audit.questions import AuditQuestion, AuditRequest
from sfda.bounds.files import Unreadable, read_bounded
from sfda.bounds.limits import REQUEST_BYTES
from sfda.config import Config
from sfda.documents import cut_off, parse_json
from sfda.errors import BadInput, listed
from sfda.manifests.digests import hash_file
from sfda.manifests.write import put, sweep_beside
from sfda.measures.change import CANNOT_TELL, NONE_OF_THESE
from sfda.state_folder import disk_errors, named_by_a_person, one_at_a_time

ANSWERS_FILE = "answers.json"
PERSON_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,39}")
Answers = dict[str, str]
"""Checked answers by question: a class, yes or no, or "x,y" in pixels of the image."""


class TakenPart(Config):
    """A file of answers that was taken."""

    name: str
    sha256: str
    answers: int  # that were new in it
    by: str = ""  # who that was, as they wrote on the page


class TakenAnswers(Config):
    """`answers.json`: what one person, or several in turns, answered so far."""

    audit: str
    answers: Answers = {}
    parts: tuple[TakenPart, ...] = ()


class PartTaken(NamedTuple):
    """What became of one file of answers."""

    name: str
    fresh: int
    again: bool  # it was taken already, and nothing changed
    total: int


def taken_answers(folder: Path, request: AuditRequest, person: str = "") -> TakenAnswers:
    """The answers in an audit's folder, of a second `person` or else the first. Raises BadInput."""
    file = _file(folder, person)
    try:
        taken = TakenAnswers.model_validate(parse_json(read_bounded(file, REQUEST_BYTES)))
    except FileNotFoundError:
        return TakenAnswers(audit=request.id)
    except (OSError, Unreadable, ValidationError) as error:
        raise BadInput(f"{file} is not what was written: {cut_off(str(error), 200)}") from None
    if taken.audit != request.id or set(taken.answers) - set(request.by_id):
        raise BadInput(f"{file} holds answers to another audit than {request.id}")
    return taken


def other_persons(folder: Path) -> list[str]:
    """The second persons who have answered."""
    files = folder.glob("answers.*.json")
    return sorted(file.name.removeprefix("answers.").removesuffix(".json") for file in files)


def take_answers(folder: Path, request: AuditRequest, path: Path, person: str = "") -> PartTaken:
    """Check every answer in the file at `path`, and put all of them into the folder.

    A file that was taken already changes nothing. Raises BadInput that names every fault; nothing
    is taken then.
    """
    part, file = read_answers(path, request), _file(folder, person)
    digest = hash_file(path)
    with disk_errors(str(file)), named_by_a_person(file), one_at_a_time(folder / ".answers"):
        taken = taken_answers(folder, request, person)
        if digest in {one.sha256 for one in taken.parts}:
            sweep_beside([file])
            return PartTaken(path.name, 0, True, len(taken.answers))
        answers, faults = check_answers(request, part, taken.answers)
        if not faults and not answers:
            faults = ["not one question has an answer"]
        if faults:
            raise BadInput(f"{path}: " + "; ".join(faults) + "; nothing was taken")
        fresh = {unit: text for unit, text in answers.items() if unit not in taken.answers}
        entry = TakenPart(name=path.name, sha256=digest, answers=len(fresh), by=part.by)
        merged = TakenAnswers(
            audit=request.id,
            answers=_in_order(request, taken.answers | fresh),
            parts=(*taken.parts, entry),
        )
        put({file: f"{merged.model_dump_json(indent=1)}\n".encode()})
    return PartTaken(path.name, len(fresh), False, len(merged.answers))


def check_answers(
    request: AuditRequest, part: AnswersPart, before: Answers
) -> tuple[Answers, list[str]]:
    """The answers of a part, and every fault, also where they are not as `before`."""
    questions = request.by_id
    foreign = [one.unit for one in part.answers if one.unit not in questions]
    if part.audit not in (None, request.id) or (foreign and len(foreign) == len(part.answers)):
        stated = f" ({cut_off(part.audit)})" if part.audit else ""
        return {}, [f"answers to another audit{stated}, this is {request.id}"]
    kinds: dict[str, list[str]] = {}
    if foreign:
        kinds["questions that this audit does not ask"] = list(map(cut_off, foreign))
    numbers = {one.id: number for number, one in enumerate(request.questions, start=1)}
    answers: Answers = {}
    for one in part.answers:
        question = questions.get(one.unit)
        if question is None:
            continue
        name = f"question {numbers[question.id]} ({question.key})"
        try:
            text = _checked(request, question, one)
        except _Faulty as fault:
            kinds.setdefault(fault.kind, []).append(f"{name}: {fault.which}")
            continue
        if text is None:
            continue
        for earlier, kind in ((answers, "answered twice"), (before, "answered otherwise before")):
            if earlier.get(question.id, text) != text:
                which = f"{name}: {earlier[question.id]}, then {text}"
                kinds.setdefault(kind, []).append(which)
        answers.setdefault(question.id, text)
    return answers, [f"{kind}: {listed(list(dict.fromkeys(w)))}" for kind, w in kinds.items()]


class _Faulty(Exception):
    def __init__(self, kind: str, which: str) -> None:
        super().__init__(f"{kind}: {which}")
        self.kind, self.which = kind, which


def _checked(request: AuditRequest, question: AuditQuestion, one: UncheckedAnswer) -> str | None:
    """The answer as it counts; None where nobody has answered. Raises _Faulty."""
    if one.fault:
        raise _Faulty("unusable", f"{one.where}, {cut_off(one.fault)}")
    if one.point is None and not one.answer:
        return None
    if request.question != "place":
        if one.point is not None:
            raise _Faulty("a point where a class is asked for", one.where)
        return _option(request, one.answer)
    if one.answer.strip().casefold() == CANNOT_TELL:
        return CANNOT_TELL
    frame = question.frame
    if one.size and one.size != (frame.shown_height, frame.shown_width):
        shown = f"{frame.shown_width} x {frame.shown_height}"
        raise _Faulty("of another size", f"{one.size[1]} x {one.size[0]}, not {shown}")
    point = _numbers(one.answer) if one.point is None else frame.in_image(*one.point)
    if not frame.holds(*point):
        raise _Faulty("places outside of their picture", one.answer or f"{one.point}")
    return f"{point[0]:.2f},{point[1]:.2f}"


def _option(request: AuditRequest, answer: str) -> str:
    """What may be answered, however the words that are no class are written."""
    if answer in request.options:
        return answer
    words = set(request.options) - set(request.classes) | {NONE_OF_THESE, CANNOT_TELL}
    plain = " ".join(answer.split()).casefold()
    if plain in words & set(request.options):
        return plain
    known = listed(request.options)
    raise _Faulty(f"no answer to such a question (there are {known})", cut_off(answer))


def _numbers(answer: str) -> tuple[float, float]:
    x, _, y = answer.partition(",")
    try:
        return float(x), float(y)
    except ValueError:
        raise _Faulty("no place", cut_off(answer)) from None


def _in_order(request: AuditRequest, answers: Answers) -> Answers:
    return {one.id: answers[one.id] for one in request.questions if one.id in answers}


def _file(folder: Path, person: str) -> Path:
    if not person:
        return folder / ANSWERS_FILE
    if not PERSON_NAME.fullmatch(person):
        raise BadInput(f"--person {cut_off(person)}: write a name of letters, digits and _ . -")
    return folder / f"answers.{person}.json"


def shared_answers(one: Answers, other: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """What two persons said of the questions that both answered."""
    return [(one[unit], text) for unit, text in other if unit in one]
