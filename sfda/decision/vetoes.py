"""Vetoes: figures without labels that no result may pass, whatever its scores (decide.md, 5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from pydantic import Field, FiniteFloat
from torch import Tensor

from sfda.config import Config
from sfda.measures.tally import Tally
from sfda.policy import VetoLimits
from sfda.refs import Profile

SUREST = 0.2  # of the images, those that the model before is surest of


class Figures(Config):
    """What the answers of a model to a set look like; None where a problem has no such figure."""

    images: int = Field(ge=0)
    # exp(entropy) of the mean prediction, and of the answers; 1: all of one class
    effective_classes: FiniteFloat | None = None
    effective_answers: FiniteFloat | None = None
    top_class: int | None = None  # the class that is answered most ...
    top_share: FiniteFloat | None = None  # ... and its share of the answers
    boxes_per_image: FiniteFloat | None = None
    unknown_share: FiniteFloat | None = None
    surest_agreement: FiniteFloat | None = None  # with the model before, where that is surest
    pseudo_labels: FiniteFloat | None = None  # of the last epoch, as share of the first
    answer_shares: tuple[FiniteFloat, ...] = ()  # of each class, of all answers


class FigureCounter:
    """Figures of a set, fed batch by batch."""

    def __init__(self, surest: Mapping[int, int] | None = None) -> None:
        self.surest = surest or {}
        self.images, self.units, self.boxes = 0, 0.0, 0.0
        self.mass: Tensor | None = None
        self.answers: Tensor | None = None
        self.counts_boxes = False
        self.asked, self.agreed = 0, 0

    def update(self, tally: Tally, rows: Sequence[int] = (), answered: Sequence[int] = ()) -> None:
        """Take in a batch: its sums, and where `surest` is watched its rows and their answers."""
        self.images += tally.images
        self.units += tally.units
        self.mass = _added(self.mass, tally.mass)
        self.answers = _added(self.answers, tally.answers)
        if tally.boxes is not None:
            self.counts_boxes = True
            self.boxes += tally.boxes
        for row, answer in zip(rows, answered, strict=True):
            if row in self.surest:
                self.asked += 1
                self.agreed += self.surest[row] == answer

    def compute(
        self, *, unknown_share: float | None = None, pseudo_labels: float | None = None
    ) -> Figures:
        """The figures of all that was taken in."""
        top = _top(self.answers, self.units)
        return Figures(
            images=self.images,
            effective_classes=effective(self.mass),
            effective_answers=effective(self.answers),
            top_class=top[0] if top else None,
            top_share=top[1] if top else None,
            boxes_per_image=self.boxes / max(1, self.images) if self.counts_boxes else None,
            unknown_share=unknown_share,
            surest_agreement=self.agreed / self.asked if self.asked else None,
            pseudo_labels=pseudo_labels,
            answer_shares=_shares(self.answers, self.units),
        )


def _added(total: Tensor | None, more: Tensor) -> Tensor:
    """The sum of two rows of counts, the shorter one with zeros at its end."""
    more = more.detach().double().cpu()
    if total is None:
        return more
    if len(total) < len(more):
        total = torch.cat([total, total.new_zeros(len(more) - len(total))])
    elif len(more) < len(total):
        more = torch.cat([more, more.new_zeros(len(total) - len(more))])
    return total + more


def effective(weights: Tensor | None) -> float | None:
    """exp(H) of weights as a distribution: how many classes it would be if all were equally
    frequent; None where there is no weight.

    >>> effective(torch.tensor([2.0, 2.0, 0.0]))
    2.0
    """
    if weights is None or float(weights.sum()) <= 0:
        return None
    shares = weights.double() / weights.double().sum()
    return float(torch.exp(-torch.xlogy(shares, shares).sum()))


def _top(answers: Tensor | None, units: float) -> tuple[int, float] | None:
    if answers is None or not len(answers) or units <= 0:
        return None
    top = int(answers.argmax())
    return top, float(answers[top]) / units


def _shares(answers: Tensor | None, units: float) -> tuple[float, ...]:
    return () if answers is None or units <= 0 else tuple((answers / units).tolist())


def figures_of(profile: Profile, images: int) -> Figures:
    """The figures of the model whose predictions a profile sums up."""
    counts = torch.tensor(list(profile["classes"].values()), dtype=torch.double)
    top = _top(counts, float(counts.sum()))
    return Figures(
        images=images,
        effective_answers=effective(counts),
        top_class=top[0] if top else None,
        top_share=top[1] if top else None,
        boxes_per_image=profile.get("per_image"),
    )


class Expected(Config):
    """How many classes a target should show, where that can be said at all.

    `effective` is exp(H) of the declared prior, or the number of classes that target and model
    share; None where classes are naturally unequal (pixels, boxes), so that the model before is all
    there is to compare with.
    """

    effective: float | None = None


def vetoes(
    after: Figures,
    before: Figures,
    limits: VetoLimits,
    expected: Expected,
    classes: Sequence[str] = (),
) -> tuple[str, ...]:
    """What speaks against a model, each with its figure and the limit; empty for nothing.

    `after` is the candidate's and `before` the model's that it would replace. An absolute collapse
    counts also where the model before has collapsed as well. `surest_agreement` is the candidate's
    with the model before.
    """
    texts = [
        _collapse(after, before, limits, expected),
        _one_class(after, before, limits, classes),
        _boxes(after, before, limits),
    ]
    if after.unknown_share is not None and after.unknown_share > limits.unknown:
        texts.append(
            f"{after.unknown_share:.0%} of the answers are 'unknown', above {limits.unknown:.0%}"
        )
    sure = after.surest_agreement
    if (
        sure is not None
        and sure < limits.surest_agreement
        and not has_collapsed(before, limits, expected)  # it is sure of one class everywhere
    ):
        texts.append(
            f"it agrees with the model before on {sure:.0%} of the fifth that this is surest of, "
            f"below {limits.surest_agreement:.0%}"
        )
    left = after.pseudo_labels
    if left is not None and left < limits.pseudo_labels:
        texts.append(
            f"pseudo-labels fell to {left:.1%} of the first epoch's, below "
            f"{limits.pseudo_labels:.0%}"
        )
    return tuple(text for text in texts if text)


AS_BEFORE = "as the source: "  # begins a veto that the source meets, too


def watched_vetoes(
    after: Figures,
    before: Figures,
    limits: VetoLimits,
    expected: Expected,
    classes: Sequence[str] = (),
) -> tuple[str, ...]:
    """The vetoes of an epoch. A collapse that the source has as well bars it from being chosen, but
    need not end the run, which may yet come out of it: such a text begins with `AS_BEFORE`.
    """
    texts = vetoes(after, before, limits, expected, classes)
    collapse = _collapse(after, before, limits, expected)
    if not collapse or not has_collapsed(before, limits, expected):
        return texts
    return tuple(AS_BEFORE + text if text == collapse else text for text in texts)


def has_collapsed(before: Figures, limits: VetoLimits, expected: Expected) -> bool:
    """Whether the model before has, by what it answers, too few classes itself."""
    start = before.model_copy(update={"effective_classes": before.effective_answers})
    return bool(_collapse(start, start, limits, expected))


def _collapse(after: Figures, before: Figures, limits: VetoLimits, expected: Expected) -> str:
    """Against what is expected; else against the model before."""
    if expected.effective is not None:
        least = limits.effective_classes * expected.effective
        now = after.effective_classes
        if now is not None and now < least:
            return (
                f"{now:.1f} effective classes of {expected.effective:.1f} expected, below "
                f"{least:.1f}"
            )
        return ""
    now, then = after.effective_answers, before.effective_answers
    if now is None or then is None:
        return ""
    least = max(1.0, limits.effective_classes * then)
    if now >= least:
        return ""
    return f"{now:.1f} effective classes where there were {then:.1f}, below {least:.1f}"


def _one_class(after: Figures, before: Figures, limits: VetoLimits, classes: Sequence[str]) -> str:
    """One class nearly everywhere that was not before."""
    now, top = after.top_share, after.top_class
    if now is None or now <= limits.one_class or top is None:
        return ""
    had = before.top_share if before.top_class == top else None
    if (had or 0.0) >= limits.one_class_before:
        return ""
    name = classes[top] if top < len(classes) else str(top)
    return f"{now:.0%} of the answers are '{name}', above {limits.one_class:.0%}"


def _boxes(after: Figures, before: Figures, limits: VetoLimits) -> str:
    now, then = after.boxes_per_image, before.boxes_per_image
    if now is None or then is None or not (now or then):
        return ""
    if then and now and 1 / limits.boxes_factor <= now / then <= limits.boxes_factor:
        return ""
    return (
        f"{now:.2f} boxes an image where there were {then:.2f}, a factor above "
        f"{limits.boxes_factor:g}"
    )
