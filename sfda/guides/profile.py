"""What can be seen of a guide without labels, before the first epoch, and what is wrong with it.

docs/methods/guided.md, sections 1.6 and 1.8.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sfda.errors import BadInput
from sfda.types import Guide

LEAST_ANSWERED = 0.1  # share of the rows
LEAST_KAPPA = 0.2
CELLS = 5  # of disagreement that are listed


class GuideProfile(NamedTuple):
    """A guide beside the source model, on the rows that it answers."""

    answered: float  # share of the rows
    covered: int  # classes that it can name
    agreement: float  # share of its rows where both say the same
    kappa: float  # the same beyond chance, Cohen's
    effective: float  # classes that it uses, exp of the entropy of its mean answer
    source_effective: float
    confidence: float  # mean of the largest probability
    source_confidence: float
    cells: tuple[tuple[str, str, int], ...]  # source says, guide says, rows: the most frequent

    def lines(self) -> tuple[str, ...]:
        """For a person, a line each."""
        pairs = ", ".join(f"{a} / {b} {count}" for a, b, count in self.cells)
        return (
            f"answers {self.answered:.1%} of the images, names {self.covered} classes",
            f"says what the source says of {self.agreement:.1%} of them (kappa {self.kappa:.2f})",
            f"uses {self.effective:.1f} classes, the source {self.source_effective:.1f}",
            f"mean confidence {self.confidence:.2f}, the source's {self.source_confidence:.2f}",
            *((f"source says / guide says: {pairs}",) if pairs else ()),
        )


def profile_guide(
    guide: Guide, covered: int, source: Float[Tensor, "N C"], classes: Sequence[str]
) -> GuideProfile:
    """The profile of a complete guide; `source` are the source model's logits of its rows.

    Raises BadInput where it answers fewer than a tenth of the rows.
    """
    share = float(guide.answered.double().mean()) if len(guide.answered) else 0.0
    if share < LEAST_ANSWERED:
        raise BadInput(
            f"the guide answers {share:.1%} of the images, and a tenth is needed; look at whether "
            "its file names these images, and its classes are these"
        )
    w = guide.logits[guide.answered].double().softmax(1)
    p = source[guide.answered].double().softmax(1)
    table = _counts(p.argmax(1), w.argmax(1), len(classes))
    return GuideProfile(
        answered=share,
        covered=covered,
        agreement=float(table.diagonal().sum() / table.sum()),
        kappa=_kappa(table),
        effective=_effective(w.mean(0)),
        source_effective=_effective(p.mean(0)),
        confidence=float(w.amax(1).mean()),
        source_confidence=float(p.amax(1).mean()),
        cells=_cells(table, classes),
    )


def concerns(profile: GuideProfile, classes: int, expected: float | None = None) -> list[str]:
    """What speaks against a guide; `expected` is how many classes the target should show, where
    that is declared. None of it can be proved without labels.
    """
    texts = []
    if profile.effective < (expected or classes) / 2:
        texts.append(
            f"the guide puts nearly everything into {profile.effective:.1f} classes; the target "
            f"should show {expected or classes:g}"
        )
    if profile.kappa < LEAST_KAPPA:
        texts.append(
            f"guide and source agree hardly more than by chance (kappa {profile.kappa:.2f}): one "
            "of them is near chance, and no method can know which; an audit can (sfda audit)"
        )
    return texts


def _counts(one: Int[Tensor, " N"], other: Int[Tensor, " N"], classes: int) -> Tensor:
    flat = torch.bincount(one * classes + other, minlength=classes**2)
    return flat.view(classes, classes).double()


def _kappa(table: Tensor) -> float:
    shares = table / table.sum()
    chance = float((shares.sum(0) * shares.sum(1)).sum())
    both = float(shares.diagonal().sum())
    return (both - chance) / (1 - chance) if chance < 1 else 0.0


def _effective(shares: Tensor) -> float:
    return float(torch.exp(-torch.xlogy(shares, shares).sum()))


def _cells(table: Tensor, classes: Sequence[str]) -> tuple[tuple[str, str, int], ...]:
    off = table.clone().fill_diagonal_(0).flatten()
    order = off.argsort(descending=True, stable=True)[:CELLS].tolist()
    count = len(classes)
    return tuple(
        (classes[n // count], classes[n % count], int(off[n])) for n in order if off[n] > 0
    )
