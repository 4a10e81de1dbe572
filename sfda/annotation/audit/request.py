"""The folder of an audit: its questions in their order, for the page and for every tool."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from sfda.annotation.audit.documents import tool_documents
from sfda.annotation.audit.page import PAGE_FILE, PagePicture, audit_page
from sfda.annotation.audit.pictures import (
    PICTURE_LIMIT,
    WIDE_LIMIT,
    QuestionPicture,
    draw_question,
    jpeg_bytes,
    png_bytes,
)
from sfda.annotation.audit.questions import (
    AUDIT_FILE,
    AuditQuestion,
    AuditRequest,
    first_choices,
    interleaved,
    question_id,
)
from sfda.annotation.make_request import lies_in, put_folder
from sfda.decision.audit import AuditPlan
from sfda.decision.change import PoolChange, PoolUnit
from sfda.errors import BadInput
from sfda.images.intensity_window import Window
from sfda.manifests.rows import Split
from sfda.manifests.write import partial_folder
from sfda.measures.change import Unit
from sfda.policy import DecisionPolicy
from sfda.state_folder import disk_errors, named_by_a_person

MOST_QUESTIONS = 2000  # of one page


class AskedUnit(NamedTuple):
    """A unit that is asked about, and whether A and B differ there."""

    row: int
    unit: Unit
    changed: bool


def audit_order(
    changed: Sequence[PoolUnit], unchanged: Sequence[PoolUnit], share: float, seed: int
) -> list[AskedUnit]:
    """Changed units in the order in which they were drawn, with unchanged ones among them that
    nobody can tell from them.
    """
    parts = {True: iter(changed), False: iter(unchanged)}
    return [
        AskedUnit(*next(parts[differs]), differs)
        for differs in interleaved(len(changed), len(unchanged), share, seed)
    ]


def draw_questions(
    change: PoolChange, plan: AuditPlan, policy: DecisionPolicy, seed: int, known: Collection[int]
) -> list[AskedUnit]:
    """What is asked, in order: changed units but for those `known`, by their numbers, and where
    answers have a level a share of unchanged ones.
    """
    numbers = change.draw(plan.questions + len(known), seed)
    drawn = [number for number in numbers if number not in known][: plan.questions]
    share = policy.unchanged_share if change.unchanged else 0.0
    rest = change.draw_unchanged(math.ceil(share * len(drawn)), seed)
    return audit_order(change.units_at(drawn), change.unchanged_at(rest), share, seed)


def audit_name(facts: AuditRequest, split: Split, asked: Sequence[AskedUnit]) -> str:
    """What an audit is called: the same whichever of its models is A."""
    models = sorted((facts.before.sha256, facts.candidate.sha256))
    digest = hashlib.sha256(repr((facts.problem, facts.target.seen, models, facts.seed)).encode())
    for row, unit, _ in asked:
        digest.update(repr((split.row_ids[row], unit.spot, unit.subject)).encode())
    return digest.hexdigest()[:16]


def write_audit(
    folder: Path, facts: AuditRequest, asked: Sequence[AskedUnit], split: Split, window: Window
) -> AuditRequest:
    """Write the folder, whole or not at all, unless just that is there; the request.

    `facts` is the request before it has questions and an id. `window` makes 8 bits of intensities.
    Raises BadInput where there is nothing to ask, or too much, or an image cannot be read.
    """
    if not asked and not facts.known:
        raise BadInput("there is nothing to ask: the two models answer the same everywhere")
    if len(asked) > MOST_QUESTIONS:
        raise BadInput(f"{len(asked)} questions are too many ({MOST_QUESTIONS}); lower --budget")
    facts = facts.model_copy(update={"id": audit_name(facts, split, asked)})
    with disk_errors(str(folder)), named_by_a_person(folder) as umask:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with partial_folder(folder.parent, folder.name) as part:
            part.chmod(0o777 & ~umask)
            questions, pictures = [], {}
            (part / "pictures").mkdir()
            for question, drawn in _drawn(facts, asked, split, window):
                (part / question.picture).write_bytes(png_bytes(drawn.picture))
                pictures[question.id] = _for_page(drawn)
                questions.append(question)
            request = facts.model_copy(update={"questions": tuple(questions)})
            for name, content in tool_documents(request).items():
                (part / name).write_bytes(content)
            (part / PAGE_FILE).write_bytes(audit_page(request, pictures))
            content = (request.model_dump_json(indent=1) + "\n").encode()
            if lies_in(folder, AUDIT_FILE, content):
                return request
            (part / AUDIT_FILE).write_bytes(content)
            put_folder(part, folder)
    return request


def _drawn(
    facts: AuditRequest, asked: Sequence[AskedUnit], split: Split, window: Window
) -> Iterator[tuple[AuditQuestion, QuestionPicture]]:
    """Each question with its picture, in order."""
    pairs = [(unit.first, unit.second) for _, unit, changed in asked if changed]
    times: Counter[object] = Counter()  # two boxes may lie on each other
    for one in asked:
        row, (spot, subject, first, second, reach, beside) = one.row, one.unit
        name = question_id(facts.id, split.row_ids[row], one.unit, times[row, spot, subject])
        times[row, spot, subject] += 1
        drawn = draw_question(split, row, one.unit, facts.question, window)
        key, choices = split.names[row], tuple[str, ...]()
        if facts.question == "class":
            choices = first_choices(facts.seed, name, one.unit, facts.classes, pairs)
        yield (
            AuditQuestion(
                id=name,
                row=split.row_ids[row],
                key=key.partition(":")[2] if facts.column == "index" else key,
                changed=one.changed,
                spot=spot,
                subject=subject,
                first=first,
                second=second,
                reach=reach,
                beside=beside,
                choices=choices,
                frame=drawn.frame,
                person=drawn.person,
            ),
            drawn,
        )


def _for_page(drawn: QuestionPicture) -> PagePicture:
    wide = drawn.wide
    return PagePicture(
        jpeg_bytes(drawn.picture, PICTURE_LIMIT),
        drawn.picture.size,
        jpeg_bytes(wide, WIDE_LIMIT) if wide else None,
        wide.size if wide else (0, 0),
    )
