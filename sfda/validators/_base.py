"""What every validator is: fed once over the target, it gives one number; higher is better."""

from __future__ import annotations

from typing import ClassVar

from sfda.types import SeenViews


class Validator:
    """A score of a model on the target without labels. One scan feeds all validators."""

    problems: ClassVar[frozenset[str]] = frozenset({"classification"})
    needs_views: ClassVar[bool] = False  # also outputs on a weak and a strong view

    def update(self, seen: SeenViews) -> None:
        """Take in one batch of outputs."""
        raise NotImplementedError(f"{type(self).__name__} takes nothing in")

    def compute(self) -> float:
        """The score over all that was taken in; ValueError if that is nothing."""
        raise NotImplementedError(f"{type(self).__name__} computes nothing")
