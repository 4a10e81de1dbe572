"""Where two models answer differently: the units of change, each a question to a person.

A is the model before (the champion, or the source), B the candidate (docs/methods/decide.md, 2).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

YES, NO = "yes", "no"
NONE_OF_THESE, CANNOT_TELL = "none of these", "cannot tell"
NEITHER = (NONE_OF_THESE, CANNOT_TELL)  # answers that speak for no model


class Unit(NamedTuple):
    """One place of one image that a person can be asked about.

    `spot` is in pixels of the image as it came: () all of it, (x, y) a point, or
    (x, y, width, height) a box. `subject` is the class or joint that is asked about, "" where the
    answer itself is a class. `first` and `second` are what A and B answer: a class, YES or NO, or
    "x,y" of a joint. `reach` is, of a joint, the distance in pixels that PCK calls near (tau).
    `beside` are, of a box, the surer ones of the same model and class that lie on it: a person sees
    by them whether the object has a box already.
    """

    spot: tuple[float, ...]
    subject: str
    first: str
    second: str
    reach: float = 0.0
    beside: tuple[tuple[float, ...], ...] = ()


@dataclass(frozen=True)
class ImageUnits:
    """How much two models differ on one image: `changed` units of `answers` (an image, its pixels,
    boxes of both, joints).

    `by_class` says the same of each class that A answers (of joints: each joint); `unit` gives the
    n-th changed one, in a fixed order, and `unchanged`, where answers can be right or wrong by
    themselves, the n-th of the others.
    """

    answers: int
    changed: int
    by_class: Mapping[str, tuple[int, int]]  # class -> (answers, changed)
    unit: Callable[[int], Unit] = field(repr=False)
    unchanged: Callable[[int], Unit] | None = field(default=None, repr=False)


Question = Literal["class", "yes or no", "place"]
"""What a person is asked: which class, whether something is so, or where a joint is."""


class Claim(NamedTuple):
    """What can be claimed of a problem's units."""

    question: Question
    units: str  # images, pixels, boxes, joints
    metric: str | None  # that the gain is of; None: the sign of something else alone
    says: str  # what "better" means, for the verdict's sentence


def class_gain(unit: Unit, answer: str) -> tuple[float, ...] | None:
    """x of a person's class: +1 where B is right and A wrong, -1 the reverse, else 0; None for "",
    which is no answer.
    """
    if not answer:
        return None
    if answer in NEITHER:
        return (0.0,)
    return (float(unit.second == answer) - float(unit.first == answer),)
