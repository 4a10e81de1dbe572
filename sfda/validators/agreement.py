"""Agreement of predictions on a weak and a strong view (FixMatch, arXiv:2001.07685)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from sfda.problems.registry import problem_of
from sfda.types import SeenViews
from sfda.validators._base import Validator, ValidatorConfig


class Agreement(Validator):
    """Mean over classes of the share of images (or pixels) of that class whose strong view agrees.

    In [0, 1]. The mean is over all C classes and a class that is never predicted counts 0, so
    that a model which sees one class everywhere scores 1/C and not 1.

    Of boxes, by class: 2 sum min(a, b) / (sum a + sum b), with a and b the scores on the two views
    and the minimum over pairs, one to one, that overlap by an IoU of at least 0.5 (that boxes which
    stay where they are tell a good detector is the finding of the box stability score, NeurIPS
    2023). Of poses, by joint: how often its peaks on two views that were turned and moved, brought
    back to one frame, lie within a twentieth of its side.
    """

    idea = "predictions on a weak and a strong view agree"
    networks: ClassVar[tuple[type[nn.Module], ...]] = (nn.Module,)
    needs_views: ClassVar[bool] = True
    needs_source: ClassVar[bool] = True

    def __init__(self, config: ValidatorConfig | None = None) -> None:
        super().__init__(config)
        self.same: list[float] = []
        self.seen: list[float] = []
        self.classes = 0

    def update(self, seen: SeenViews) -> None:
        """Take in one batch of outputs of both views, of any problem's networks."""
        if seen.weak is None or seen.strong is None:
            raise ValueError("agreement needs the weak and the strong view")
        problem = problem_of(seen.weak)
        for counts in problem.agreement_counts(seen.weak, seen.strong, self.classes):
            self._add(*counts)

    def refer(self, profile: Mapping[str, Any]) -> None:
        """Take the number of classes: a class that no box is of counts too."""
        self.classes = len(profile["classes"])

    def _add(self, seen: Tensor, same: Tensor) -> None:
        longest = max(len(seen), len(self.seen))
        for total, part in ((self.seen, seen), (self.same, same)):
            total += [0.0] * (longest - len(total))
            for label, value in enumerate(part.tolist()):
                total[label] += value

    def compute(self) -> float:
        """The mean share."""
        if not self.seen:
            raise ValueError("agreement of no predictions")
        shares = [same / n if n else 0.0 for same, n in zip(self.same, self.seen, strict=True)]
        return sum(shares) / len(shares)


EXPORT = Agreement
