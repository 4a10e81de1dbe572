"""What comes back of an audit: the page's file, the CSV filled in, and what tools export."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from sfda.annotation.audit.documents import POINT
from sfda.annotation.audit.page import ANSWERS_FORMAT
from sfda.annotation.audit.questions import AuditRequest
from sfda.annotation.exports import read_export
from sfda.bounds.files import Unreadable, check_regular, read_bounded
from sfda.bounds.limits import REQUEST_BYTES
from sfda.documents import cut_off, parse_json
from sfda.errors import BadInput
from sfda.formats.annotations import PictureAnnotations
from sfda.formats.readers import BROKEN
from sfda.formats.table import Table, read_csv


class UncheckedAnswer(NamedTuple):
    """What a file says of one question, before anybody has checked it.

    A `point` is in pixels of the picture, from its corner; the `answer` of the page is in pixels of
    the image already. Neither: nobody has answered.
    """

    where: str  # for messages
    unit: str
    answer: str = ""
    point: tuple[float, float] | None = None
    size: tuple[int, int] | None = None  # height and width of the picture that was drawn in
    fault: str | None = None


class AnswersPart(NamedTuple):
    """One file of answers: of which audit it says that it is, if it says so, what is in it, and
    who wrote it, if they said so.
    """

    audit: str | None
    answers: list[UncheckedAnswer]
    by: str = ""


def read_answers(path: Path, request: AuditRequest) -> AnswersPart:
    """A file of answers, told apart by its content. Raises BadInput if it is none."""
    content = _content(path)
    if content is not None and path.suffix.lower() == ".csv":
        rows, header = read_csv(path)
        if {"unit", "answer"} <= set(header):
            return AnswersPart(None, list(_from_table(rows)))
    elif content is not None and content.lstrip(b"\xef\xbb\xbf \r\n\t").startswith(b"{"):
        try:
            document: Any = parse_json(content)
        except Unreadable as error:
            raise BadInput(f"{path} is no JSON: {error}") from None
        if document.get("format") == ANSWERS_FORMAT:
            return _from_page(document, path)
    units = {question.id for question in request.questions}
    return AnswersPart(None, [_from_picture(one, units) for one in read_export(path)])


def _content(path: Path) -> bytes | None:
    """The bytes of a file; None of a zip, whose members have limits of their own."""
    try:
        check_regular(path)
        if zipfile.is_zipfile(path):
            return None
        return read_bounded(path, REQUEST_BYTES)
    except BROKEN as error:
        raise BadInput(f"answers {path} cannot be read: {error}") from None


def _from_page(document: dict[str, Any], path: Path) -> AnswersPart:
    answers = document.get("answers")
    if not isinstance(answers, dict) or not isinstance(document.get("audit"), str):
        raise BadInput(f"{path} is no file of answers that the page saved: save it again")
    return AnswersPart(
        document["audit"],
        [
            UncheckedAnswer(f"question {unit}", unit, answer)
            if isinstance(answer, str)
            else UncheckedAnswer(f"question {unit}", unit, fault="its answer is no text")
            for unit, answer in answers.items()
        ],
        cut_off(str(document.get("person", ""))),
    )


def _from_table(rows: Table) -> Iterator[UncheckedAnswer]:
    for line, row in enumerate(rows, start=2):
        where, unit, answer = f"line {line}", row["unit"].strip(), row["answer"].strip()
        x, y = row.get("x", "").strip(), row.get("y", "").strip()
        if not (x or y):
            yield UncheckedAnswer(where, unit, answer)
            continue
        try:
            point = float(x.replace(",", ".")), float(y.replace(",", "."))
        except ValueError:
            yield UncheckedAnswer(where, unit, fault="x and y are no numbers")
            continue
        if answer:
            yield UncheckedAnswer(where, unit, fault=f"a point and '{answer}'")
        else:
            yield UncheckedAnswer(where, unit, point=point)


def _from_picture(one: PictureAnnotations, units: set[str]) -> UncheckedAnswer:
    """What a tool says of a picture, which is named for its question."""
    stem = PurePosixPath(one.file or "").stem
    unit = one.row if one.row in units else stem
    base = UncheckedAnswer(one.where, unit or one.where, size=one.size)
    if one.fault:
        return base._replace(fault=one.fault)
    labels = list(dict.fromkeys([*one.labels, *(box.label for box in one.boxes)]))
    points = [dot for person in one.persons for dot in person]
    if len(labels) + len(points) > 1:
        return base._replace(fault="several answers")
    if one.mask is not None or (one.regions and not labels):
        return base._replace(fault="something is painted where nothing is to be")
    if points:
        if points[0].label != POINT:
            return base._replace(fault=f"a point that is called '{points[0].label}'")
        return base._replace(point=(points[0].x, points[0].y))
    return base._replace(answer=labels[0] if labels else "")
