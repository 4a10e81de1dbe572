"""Agreement of predictions on a weak and a strong view (FixMatch, arXiv:2001.07685)."""

from __future__ import annotations

from typing import ClassVar

from sfda.types import SeenViews
from sfda.validators._base import Validator, rows_of


class Agreement(Validator):
    """Mean over classes of the share of images (or pixels) of that class whose strong view agrees.

    In [0, 1]. The mean is over all C classes and a class that is never predicted counts 0, so
    that a model which sees one class everywhere scores 1/C and not 1.
    """

    needs_views: ClassVar[bool] = True

    def __init__(self) -> None:
        self.same: list[float] = []
        self.seen: list[float] = []

    def update(self, seen: SeenViews) -> None:
        """Take in one batch with logits [B, C], or of pixels [B, C, H, W], of both views."""
        if seen.weak is None or seen.strong is None:
            raise ValueError("agreement needs the weak and the strong view")
        classes = seen.weak.logits.shape[1]
        weak, strong = (rows_of(view.logits).argmax(1) for view in (seen.weak, seen.strong))
        counts = weak.bincount(minlength=classes).tolist()
        agreed = weak[weak == strong].bincount(minlength=classes).tolist()
        self.seen = [a + b for a, b in zip(self.seen or [0.0] * classes, counts, strict=True)]
        self.same = [a + b for a, b in zip(self.same or [0.0] * classes, agreed, strict=True)]

    def compute(self) -> float:
        """The mean share."""
        if not self.seen:
            raise ValueError("agreement of no predictions")
        shares = [same / max(1.0, n) for same, n in zip(self.same, self.seen, strict=True)]
        return sum(shares) / len(shares)


EXPORT = Agreement
