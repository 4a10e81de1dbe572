"""Where two multi-label classifiers differ: one class of one image, yes or no.

The specification names no unit for this problem; this one is our own choice. With it the bound of
accuracy holds for the share of right answers, over all images and classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from jaxtyping import Bool, Float

from sfda.inference.forward import refuse_not_finite
from sfda.measures.change import NEITHER, NO, YES, Claim, ImageUnits, Unit
from sfda.measures.opinions import Backing, Counts, MemberWeights, Opinions, PoolSize, entropy_of
from sfda.problems._labels import Array
from sfda.problems.multilabel.network import MultilabelOutput
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


Yes = Bool[np.ndarray, "N C"]


@dataclass(frozen=True, eq=False)
class YesOpinions(Opinions):
    """The probability of yes of every class.

    The consensus says yes where the weighted mean probability is 0.5 or above. The agreement with
    it is, by class, that of its and the model's yes: 2 n_both / (n_one + n_other).
    """

    probs: Float[np.ndarray, "N C"]

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """Along the images."""
        return cls(np.concatenate([part.probs for part in parts]))

    @property
    def yes(self) -> Yes:
        """What it answers."""
        return np.asarray(self.probs >= 0.5)

    def common(self, others: Sequence[Self], weights: MemberWeights) -> Yes:
        """Yes where the weighted mean is."""
        total = np.zeros(self.probs.shape, np.float32)
        for member, weight in zip((self, *others), weights, strict=True):
            total += weight * member.probs.astype(np.float32)
        return np.asarray(total >= 0.5 * sum(weights))

    def matched(self, common: Yes) -> Counts:
        """By class."""
        seen = (self.yes.astype(np.float64) + common) / 2
        return Counts(seen, (self.yes & common).astype(np.float64))

    def backed(self, other: Self, third: Self) -> Backing:
        """By class: where two answers differ a third is like one of them."""
        differ = self.yes != other.yes
        return Backing(
            (differ & (third.yes == self.yes)).sum(1).astype(np.float64),
            (differ & (third.yes == other.yes)).sum(1).astype(np.float64),
        )

    def information(self) -> float:
        """The mean over classes of that of yes and no, at most log 2."""
        probs = self.probs.astype(np.float64)
        rows, classes = probs.shape
        both, mean = np.stack([probs, 1 - probs], -1), probs.mean(0)
        whole = entropy_of(np.stack([mean, 1 - mean], -1)) / classes
        return float(whole - entropy_of(both) / (rows * classes))

    def same_as(self, other: Self) -> bool:
        """Whether all probabilities are the same."""
        return self.probs.shape == other.probs.shape and bool((self.probs == other.probs).all())


def opinions(output: MultilabelOutput, rows: Sequence[int], pool: PoolSize) -> YesOpinions:
    """The probabilities of each image."""
    return YesOpinions(output.logits.float().sigmoid().cpu().numpy().astype(np.float16))
