"""How many answers change between two models on a pool of images, and which (decide.md, 2).

A is the model before, B the candidate. No label is looked at.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from pydantic import Field, NonNegativeInt
from torch import nn

from sfda.config import Config
from sfda.errors import BadInput, listed
from sfda.inference.over_split import infer_split
from sfda.loading.opened import Opened, decode_key
from sfda.measures.change import ImageUnits, Unit
from sfda.problems._base import AnyProblem
from sfda.problems._outputs import SplitInference
from sfda.problems.registry import PROBLEMS
from sfda.refs import ModelSpec

GROUPS_LISTED = 50  # in a report: those that changed most
CLASSES_LISTED = 1000
ChangeCounts = dict[str, tuple[int, int]]  # answers, and how many of them changed


class ChangeReport(Config):
    """How many answers change, for reports and tables; `share` is d, in [0, 1]."""

    answers: NonNegativeInt
    changed: NonNegativeInt
    share: float = Field(ge=0, le=1)
    images: NonNegativeInt
    images_changed: NonNegativeInt  # with any change
    units: str  # what the answers are: images, pixels, boxes, joints
    metric: str | None  # that cannot move by more than `share`; None: there is no such bound
    by_class: ChangeCounts  # of each class that A answers, the most changed ones
    by_group: ChangeCounts = {}  # of volumes or videos, the most changed ones

    def text(self) -> str:
        """One line, which never promises a bound that does not hold."""
        if not self.answers:
            return f"there are no {self.units} to compare"
        if not self.metric:
            of = f"{self.changed:,} of {self.answers:,}"
            return f"{100 * self.share:.1f} % of the {self.units} change ({of})"
        what = "answers" if self.units == "images" else self.units
        measured = f"{self.metric} on these images"
        if not self.changed:
            return f"changes none of {self.answers:,} {what}, so {measured} stays as it is"
        points = math.ceil(1000 * self.share - 1e-9) / 10  # rounded up: it is a bound
        return (
            f"changes {self.changed:,} of {self.answers:,} {what}, so {measured} moves by at most "
            f"{points:.1f} points"
        )


class PoolUnit(NamedTuple):
    """A unit, and the row of the pool that it lies in."""

    row: int
    unit: Unit


class Side(NamedTuple):
    """A model on its device, its spec, and a split as it wants the images."""

    network: nn.Module
    spec: ModelSpec
    opened: Opened


@dataclass(frozen=True, eq=False)
class PoolChange:
    """What changes between two models on a pool. Units are numbered from 0, row by row.

    Memory is that of one image and two numbers a row: a unit is looked up by running both models
    on its row again.
    """

    report: ChangeReport
    answers: Int[np.ndarray, " N"] = field(repr=False)  # of each row
    changed: Int[np.ndarray, " N"] = field(repr=False)
    sides: tuple[Side, Side] = field(repr=False)
    device: torch.device = field(repr=False)

    @property
    def unchanged(self) -> int:
        """Units that can be asked about though nothing changes there; 0 where a problem has none
        that is right or wrong by itself.
        """
        return self.report.answers - self.report.changed if self.report.metric else 0

    def draw(self, count: int, seed: int) -> list[int]:
        """Numbers of at most so many changed units, uniformly and without replacement. More of
        them under the same seed begin with the same ones.
        """
        return drawn_numbers(self.report.changed, count, (seed, 0))

    def draw_unchanged(self, count: int, seed: int) -> list[int]:
        """The same of unchanged units, independent of those of `draw`."""
        return drawn_numbers(self.unchanged, count, (seed, 1))

    def unit_at(self, number: int) -> PoolUnit:
        """A changed unit. Raises BadInput as `look`."""
        return self.units_at([number])[0]

    def units_at(self, numbers: Sequence[int]) -> list[PoolUnit]:
        """Changed units, in the order of these numbers; each row is looked at once. Raises
        BadInput as `look`.
        """
        return self._looked_up(numbers, self.changed, lambda image: image.unit)

    def unchanged_at(self, numbers: Sequence[int]) -> list[PoolUnit]:
        """Unchanged units, in which A and B answer the same. Raises BadInput as `look`."""
        return self._looked_up(numbers, self.answers - self.changed, _unchanged_unit)

    def look(self, rows: Sequence[int]) -> Iterator[tuple[int, ImageUnits]]:
        """(row, units) of some rows, which are in order, by running both models on them. Raises
        BadInput where a model answers otherwise than it did.
        """
        outputs = (_outputs_at(side, self.device, rows) for side in self.sides)
        for row, image in _in_step(self.sides, outputs, frozenset(rows)):
            if (image.answers, image.changed) != (self.answers[row], self.changed[row]):
                name = self.sides[0].opened.split.names[row]
                raise BadInput(f"the models answer otherwise on {name} than when it was counted")
            yield row, image

    def _looked_up(
        self,
        numbers: Sequence[int],
        counts: Int[np.ndarray, " N"],
        nth_of: Callable[[ImageUnits], Callable[[int], Unit]],
    ) -> list[PoolUnit]:
        ends = counts.cumsum()
        if odd := [number for number in numbers if not 0 <= number < counts.sum()]:
            raise IndexError(f"no unit {odd[0]}: they are numbered from 0 to {counts.sum() - 1}")
        rows = np.searchsorted(ends, numbers, side="right").tolist()
        asked = defaultdict(list)
        for number, row in zip(numbers, rows, strict=True):
            asked[row].append(number)
        units: dict[int, PoolUnit] = {}
        for row, image in self.look(sorted(asked)):
            for number in asked[row]:
                nth = int(number - ends[row] + counts[row])
                units[number] = PoolUnit(row, nth_of(image)(nth))
        return [units[number] for number in numbers]


def scan_change(
    network_a: nn.Module,
    network_b: nn.Module,
    opened: Opened,
    spec_a: ModelSpec,
    spec_b: ModelSpec,
    device: torch.device,
    infer_a: SplitInference | None = None,
    infer_b: SplitInference | None = None,
    opened_b: Opened | None = None,
) -> PoolChange:
    """What changes from A to B on a split, both on `device`, from one look of each at it.

    `infer_a` and `infer_b` give outputs for all rows in another way than by inference here.
    `opened_b` is the same split for B, where that wants its images prepared otherwise. Raises
    BadInput where the models are not for the same answers.
    """
    sides = Side(network_a, spec_a, opened), Side(network_b, spec_b, opened_b or opened)
    _refuse_other_answers(*sides)
    outputs = [
        (infer or partial(infer_split, opened=side.opened, spec=side.spec, device=device))(
            side.network
        )
        for side, infer in zip(sides, (infer_a, infer_b), strict=True)
    ]
    count = len(opened.split)
    answers, changed = np.zeros(count, np.int64), np.zeros(count, np.int64)
    by_class: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    seen = np.zeros(count, bool)
    for row, image in _in_step(sides, outputs):
        answers[row], changed[row], seen[row] = image.answers, image.changed, True
        for name, pair in image.by_class.items():
            by_class[name] = [a + b for a, b in zip(by_class[name], pair, strict=True)]
    if not seen.all():
        raise BadInput(f"outputs of {seen.sum()} of {count} images alone: they cannot be counted")
    report = _report(PROBLEMS[spec_a.problem], answers, changed, by_class, opened.split.groups)
    return PoolChange(report, answers, changed, sides, device)


def _refuse_other_answers(a: Side, b: Side) -> None:
    if a.spec.problem != b.spec.problem:
        raise BadInput(
            f"one model is for {a.spec.problem}, the other for {b.spec.problem}: their answers "
            "cannot be compared"
        )
    if a.spec.classes != b.spec.classes:
        raise BadInput(
            "the models answer other classes, or in another order, and cannot be compared: "
            f"{listed(a.spec.classes)}; and {listed(b.spec.classes)}"
        )
    if a.opened.split.row_ids != b.opened.split.row_ids:
        raise BadInput("the models were to be compared on two different sets of images")
    if a.opened is b.opened and decode_key("", a.spec.input) != decode_key("", b.spec.input):
        raise BadInput("the models want their images prepared differently: open them for each")


def _unchanged_unit(image: ImageUnits) -> Callable[[int], Unit]:
    if image.unchanged is None:
        raise BadInput("what does not change here is not right or wrong by itself")
    return image.unchanged


def _in_step(
    sides: tuple[Side, Side], outputs: Iterable[Iterable[Any]], rows: frozenset[int] | None = None
) -> Iterator[tuple[int, ImageUnits]]:
    """Row and units, from the outputs of both models; of some rows, or of all."""
    spec, split = sides[0].spec, sides[0].opened.split
    problem = PROBLEMS[spec.problem]
    pairs = (
        _answers(problem, own, side.spec, rows) for side, own in zip(sides, outputs, strict=True)
    )
    for (row, one), (other_row, other) in zip(*pairs, strict=True):
        assert row == other_row, "both models look at the same rows"
        yield row, problem.changed(one, other, spec, problem.reach_of(split, row))


def _answers(
    problem: AnyProblem, outputs: Iterable[Any], spec: ModelSpec, rows: frozenset[int] | None
) -> Iterator[tuple[int, Any]]:
    for output in outputs:
        for row, answer in problem.answers(output, spec):
            if rows is None or row in rows:
                yield row, answer


def _outputs_at(side: Side, device: torch.device, rows: Sequence[int]) -> Iterator[Any]:
    """Outputs for rows, and for those beside them in their batches: so that they are, bit by bit,
    what a look at all rows gives.
    """
    step, size = PROBLEMS[side.spec.problem].at_once(side.spec), len(side.opened.split)
    for part, _ in groupby(rows, key=lambda row: row // step):
        span = part * step, min((part + 1) * step, size)
        yield from infer_split(side.network, side.opened, side.spec, device, span)


def _report(
    problem: AnyProblem,
    answers: Int[np.ndarray, " N"],
    changed: Int[np.ndarray, " N"],
    by_class: Mapping[str, Sequence[int]],
    groups: Sequence[str] | None,
) -> ChangeReport:
    by_group: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for name, pair in zip(groups or (), zip(answers, changed, strict=True), strict=bool(groups)):
        by_group[name] = [own + int(more) for own, more in zip(by_group[name], pair, strict=True)]
    total, different = int(answers.sum()), int(changed.sum())
    return ChangeReport(
        answers=total,
        changed=different,
        share=different / max(1, total),
        images=len(answers),
        images_changed=int((changed > 0).sum()),
        units=problem.claim.units,
        metric=problem.claim.metric,
        by_class=_most_changed(by_class, CLASSES_LISTED),
        by_group=_most_changed(by_group, GROUPS_LISTED),
    )


def _most_changed(counts: Mapping[str, Sequence[int]], most: int) -> ChangeCounts:
    """Those of the largest share, the largest first."""
    order = sorted(counts.items(), key=lambda item: (-item[1][1] / max(1, item[1][0]), item[0]))
    return {name: (int(pair[0]), int(pair[1])) for name, pair in order[:most]}


def drawn_numbers(size: int, count: int, seed: int | tuple[int, ...]) -> list[int]:
    """At most `count` of the numbers below `size`, uniformly, without replacement, in the order of
    drawing. Memory is that of what is drawn; a longer list begins with the shorter one.

    >>> sorted(drawn_numbers(3, 10, 0)), len(set(drawn_numbers(10**12, 50, 0)))
    ([0, 1, 2], 50)
    """
    random = np.random.default_rng(seed)
    moved: dict[int, int] = {}  # a shuffle by exchanges, of which only those that happened are held
    numbers = []
    for position in range(min(size, count)):
        chosen = int(random.integers(position, size))
        numbers.append(moved.get(chosen, chosen))
        moved[chosen] = moved.get(position, position)
    return numbers
