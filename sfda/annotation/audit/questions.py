"""An audit's questions: `audit.json`, what each asks of a person, and in which order.

A question is a unit of change (docs/methods/decide.md, section 2), and nothing that a person sees
says what either model answers: names of models, their order and their answers stand in `audit.json`
alone.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import Field, ValidationError, model_validator

from sfda.bounds.files import Unreadable, read_bounded
from sfda.bounds.limits import REQUEST_BYTES
from sfda.config import Config
from sfda.decision.audit import AuditPlan
from sfda.decision.change import ChangeReport
from sfda.documents import cut_off, parse_json
from sfda.errors import BadInput, listed
from sfda.measures.change import CANNOT_TELL, NO, NONE_OF_THESE, YES, Question, Unit
from sfda.policy import DecisionPolicy
from sfda.problems.registry import PROBLEMS
from sfda.refs import Name, ProblemName, SplitRef

AUDIT_FILE = "audit.json"
FIRST_CHOICES = 2  # classes that are named first: those of both models, or one and a decoy
MOST_PIXELS = 10**7  # of an image's side, and of a distance in it
UNKNOWN_CLASS = "unknown"  # what a model says that rejects; to a person it is "none of these"


_Corner = Annotated[int, Field(ge=-MOST_PIXELS, le=MOST_PIXELS)]
_Side = Annotated[int, Field(ge=1, le=MOST_PIXELS)]
_Pixels = Annotated[float, Field(ge=-MOST_PIXELS, le=MOST_PIXELS, allow_inf_nan=False)]


class Frame(NamedTuple):
    """The part of an image that a picture shows, in its pixels, and how large the picture is."""

    left: _Corner
    top: _Corner
    width: _Side
    height: _Side
    shown_width: _Side
    shown_height: _Side

    def in_image(self, x: float, y: float) -> tuple[float, float]:
        """A point of the picture, from its corner, in pixels of the image, from the middle of its
        first pixel.

        >>> Frame(10, 0, 4, 4, 400, 400).in_image(50, 150)
        (10.0, 1.0)
        """
        return (
            self.left + x * self.width / self.shown_width - 0.5,
            self.top + y * self.height / self.shown_height - 0.5,
        )

    def in_picture(self, x: float, y: float) -> tuple[float, float]:
        """The way back."""
        return (
            (x + 0.5 - self.left) * self.shown_width / self.width,
            (y + 0.5 - self.top) * self.shown_height / self.height,
        )

    def holds(self, x: float, y: float) -> bool:
        """Whether a point in pixels of the image lies in the picture."""
        across, down = self.in_picture(x, y)
        return -0.01 <= across <= self.shown_width + 0.01 and (
            -0.01 <= down <= self.shown_height + 0.01
        )


class AuditQuestion(Config):
    """One question, in the order in which it is asked.

    `spot`, `subject`, `first`, `second` and `beside` are the unit's: what A answers is `first`.
    `choices` are the classes that a person is shown before all others.
    """

    id: Annotated[str, Field(pattern=r"^[0-9A-Za-z_-]{1,64}$")]  # of its picture's file, too
    row: str  # its opaque id
    key: str  # path or index in the manifest
    changed: bool
    spot: tuple[_Pixels, ...]
    subject: str
    first: str
    second: str
    reach: _Pixels = 0.0
    beside: tuple[tuple[_Pixels, ...], ...] = ()
    choices: tuple[str, ...] = ()
    frame: Frame
    person: bool = False  # the picture shows the one person that the row is about, in its middle

    @property
    def unit(self) -> Unit:
        """The unit of change."""
        return Unit(self.spot, self.subject, self.first, self.second, self.reach)

    @property
    def picture(self) -> str:
        """The file of its picture, below the request."""
        return f"pictures/{self.id}.png"


class AuditedModel(Config):
    """One of the two models, by address and content."""

    uri: str
    sha256: str


class KnownAnswer(Config):
    """A changed unit that an earlier audit has the answer to: it is not asked about again."""

    row: str
    spot: tuple[_Pixels, ...]
    subject: str
    first: str
    second: str
    reach: _Pixels = 0.0
    answer: str

    @property
    def unit(self) -> Unit:
        """The unit of change."""
        return Unit(self.spot, self.subject, self.first, self.second, self.reach)


class AuditRequest(Config):
    """`audit.json`: which models on which images, what is asked, and by which rule it is decided.

    `before` is A, `candidate` is B. `vetoes` speak against B whatever is answered.
    """

    format: int = 1
    id: str
    problem: ProblemName
    manifest: str  # its name
    target: SplitRef
    pool: str = ""  # what the images are, where they are not held out
    column: str  # file or index
    before: AuditedModel
    candidate: AuditedModel
    classes: tuple[Name, ...]
    question: Question
    change: ChangeReport
    plan: AuditPlan
    vetoes: tuple[str, ...] = ()
    seed: int
    policy: DecisionPolicy
    known: tuple[KnownAnswer, ...] = ()
    questions: tuple[AuditQuestion, ...]

    @model_validator(mode="after")
    def _consistent(self) -> AuditRequest:
        times = Counter(question.id for question in self.questions)
        if twice := [name for name, count in times.items() if count > 1]:
            raise ValueError(f"several questions have one id: {listed(twice)}")
        changed = sum(question.changed for question in self.questions)
        if changed > self.plan.pool:
            raise ValueError(f"{changed} questions are about {self.plan.pool} changed units")
        if self.question != PROBLEMS[self.problem].claim.question:
            raise ValueError(f"of {self.problem} nobody is asked for a {self.question}")
        if self.plan.detection != counts_twice(self.problem):
            raise ValueError(
                f"`plan.detection` is {self.plan.detection}, and {self.problem} not so"
            )
        return self

    @property
    def options(self) -> tuple[str, ...]:
        """All that may be answered, where the answer is no place."""
        if self.question == "class":
            return (*self.classes, NONE_OF_THESE, CANNOT_TELL)
        return (YES, NO, CANNOT_TELL) if self.question == "yes or no" else (CANNOT_TELL,)

    @property
    def by_id(self) -> dict[str, AuditQuestion]:
        """The questions by their ids."""
        return {question.id: question for question in self.questions}


def counts_twice(problem: str) -> bool:
    """Whether an answer speaks by a pair of numbers, as of detection."""
    return len(PROBLEMS[problem].x_of(Unit((), "", "", ""), CANNOT_TELL) or ()) > 1


def read_audit(folder: Path) -> AuditRequest:
    """The audit in a folder. Raises BadInput."""
    file = folder / AUDIT_FILE
    try:
        content = read_bounded(file, REQUEST_BYTES)
        return AuditRequest.model_validate(parse_json(content))
    except OSError:
        raise BadInput(
            f"{folder} holds no audit ({AUDIT_FILE}); `sfda audit --candidate URI --target M --out "
            "DIR` writes one"
        ) from None
    except ValidationError as error:
        why = _faults(error)
        raise BadInput(f"{file} is no audit: {why}; make it anew with `sfda audit`") from None
    except Unreadable as error:
        raise BadInput(f"{file} is no audit: {error}") from None


def _faults(error: ValidationError) -> str:
    """The first ones, by the names of the fields."""
    every = error.errors(include_url=False, include_input=False)
    faults = [f"{'.'.join(map(str, fault['loc']))} {fault['msg']}" for fault in every]
    return listed([cut_off(fault.replace("Value error, ", ""), 200) for fault in faults], "; ")


def question_text(request: AuditRequest, question: AuditQuestion) -> str:
    """What a person is asked, in one sentence or two; of models it says nothing."""
    subject = question.subject.replace("_", " ")
    if request.question == "place":
        whose = " of the person in the middle" if question.person else ""
        sided = {"left", "right"} & set(subject.lower().split())
        return f"Where is the {subject}{whose}?" + (" Left and right are their own." * bool(sided))
    if request.question == "yes or no":
        if not question.spot:
            return f"Is there {_with_article(subject)} in this image?"
        return (
            f"Is this {_with_article(subject)}, well framed, and not a second box on an object "
            f"that has one{' (dashed)' * bool(question.beside)}?"
        )
    return f"Which class {'is at the cross' if question.spot else 'is this image'}?"


def _with_article(noun: str) -> str:
    """
    >>> _with_article("apple"), _with_article("RBC")
    ('an apple', 'an RBC')
    """
    spelt = noun[:2].isupper()  # letter by letter: an RBC, a UFO
    return f"{'an' if noun[:1] in ('AEFHILMNORSX' if spelt else 'AEIOUaeiou') else 'a'} {noun}"


def question_id(audit: str, row: str, unit: Unit, number: int) -> str:
    """A name for a question that is the same whichever model is A, and foreign to other audits."""
    spot, subject = unit.spot, unit.subject
    return _digest(audit, row, *map(repr, spot), subject, str(number))[:16]


def first_choices(
    seed: int, name: str, unit: Unit, classes: Sequence[str], pairs: Sequence[tuple[str, str]]
) -> tuple[str, ...]:
    """The classes of both models in shuffled order; where they are one and the same, or a model
    says "unknown", a decoy joins: a class that others of the `pairs` were confused with it.

    So an unchanged unit looks as a changed one does.
    """
    known = set(classes)
    own = sorted({unit.first, unit.second} & known)
    decoys = sorted(
        known - set(own),
        key=lambda c: (not _confused(c, own, pairs), _digest(str(seed), name, "decoy", c)),
    )
    chosen = (own + decoys)[:FIRST_CHOICES]
    return tuple(shuffled(chosen, seed, name))


def shuffled(items: Iterable[str], seed: int, name: str) -> list[str]:
    """The same in an order that follows from the seed and a name, not from theirs."""
    return sorted(items, key=lambda item: _digest(str(seed), name, item))


def interleaved(changed: int, unchanged: int, share: float, seed: int) -> Iterator[bool]:
    """For each question in order whether it is about a changed unit: of those `changed`, with one
    of the `unchanged` somewhere in each run of 1/share of them.

    >>> "".join("-x"[c] for c in interleaved(10, 2, 0.2, seed=0)).count("x")
    10
    """
    if not share or not unchanged:
        yield from [True] * changed
        return
    size, asked = round(1 / share), 0
    while asked < changed:
        run = min(size, changed - asked)
        block = [True] * run
        if unchanged and run == size:
            position = int(_digest(str(seed), "block", str(asked))[:8], 16) % (size + 1)
            block.insert(position, False)
            unchanged -= 1
        yield from block
        asked += run


def _confused(name: str, own: Sequence[str], pairs: Sequence[tuple[str, str]]) -> bool:
    return any({name, other} == set(pair) for pair in pairs for other in own)


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
