"""Where two multi-label classifiers differ: one class of one image, yes or no.

The specification names no unit for this problem; this one is our own choice. With it the bound of
accuracy holds for the share of right answers, over all images and classes.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from sfda.inference.forward import refuse_not_finite
from sfda.problems._change import NEITHER, NO, YES, Claim, ImageUnits, Unit
from sfda.problems._labels import Array
from sfda.refs import ModelSpec
from sfda.types import Seen

CLAIM = Claim(
    "yes or no",
    "answers",
    "the share of right yes/no answers",
    "more of the yes/no answers are right",
)


def answers(output: Seen, spec: ModelSpec) -> Iterator[tuple[int, Array]]:
    """(row, bool [C]) of a batch: yes from a probability of 0.5. Raises NotFinite."""
    rows, out = output
    refuse_not_finite(out.logits)
    flags = (out.logits.sigmoid() >= 0.5).cpu().numpy()
    yield from zip(rows.tolist(), flags, strict=True)


def image_units(one: Array, other: Array, spec: ModelSpec, reach: float) -> ImageUnits:
    """The classes of which one says yes and the other no, in the order of the classes."""
    different = one != other

    def unit_of(classes: Array, number: int) -> Unit:
        label = int(classes[number])
        first, second = (YES if flags[label] else NO for flags in (one, other))
        return Unit((), spec.classes[label], first, second)

    changed, same = np.flatnonzero(different), np.flatnonzero(~different)
    by_class = {name: (1, int(d)) for name, d in zip(spec.classes, different, strict=True)}
    return ImageUnits(
        len(different),
        len(changed),
        by_class,
        lambda number: unit_of(changed, number),
        lambda number: unit_of(same, number),
    )


def x_of(unit: Unit, answer: str) -> tuple[float, ...] | None:
    """+1 where B is right and so A wrong, -1 the reverse, 0 where nobody can tell or both say the
    same; None for what is no answer.
    """
    if answer in NEITHER:
        return (0.0,)
    if answer not in (YES, NO):
        return None
    return (float(unit.second == answer) - float(unit.first == answer),)
