"""Consistency of masks under perturbed inputs (after Wang et al., arXiv:1807.07356)."""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from sfda.problems.class_outputs import rows_of
from sfda.problems.segmentation.network import Segmenter
from sfda.types import SeenViews
from sfda.validators._base import Validator, ValidatorConfig


class Consistency(Validator):
    """Mean over images of the Dice between the masks of a weak and a strong view, in [0, 1].

    Of each image it is the mean over the classes that either mask shows, so that small ones count
    as large ones do, where `agreement` counts the pixels of all images. Wang et al. have the
    spread of structures under such perturbations as their uncertainty; the score is ours.

    It assumes that the perturbation changes no truth, and rewards constant answers: only beside a
    veto on collapse. Of segmentation.
    """

    idea = "masks of a weak and a strong view overlap, class by class in each image"
    networks: ClassVar[tuple[type[nn.Module], ...]] = (Segmenter,)
    needs_views: ClassVar[bool] = True

    def __init__(self, config: ValidatorConfig | None = None) -> None:
        super().__init__(config)
        self.total, self.count = 0.0, 0

    def update(self, seen: SeenViews) -> None:
        """Take in one batch of maps of both views."""
        if seen.weak is None or seen.strong is None:
            raise ValueError("consistency needs the weak and the strong view")
        images, classes = seen.weak.logits.shape[:2]
        one, other = (
            nn.functional.one_hot(rows_of(view.logits).argmax(1).view(images, -1), classes).double()
            for view in (seen.weak, seen.strong)
        )
        size = one.sum(1) + other.sum(1)
        dice = 2 * (one * other).sum(1) / size.clamp(min=1)
        self.total += float((dice.sum(1) / (size > 0).sum(1)).sum())
        self.count += images

    def compute(self) -> float:
        """The mean Dice."""
        if not self.count:
            raise ValueError("consistency of no masks")
        return self.total / self.count


EXPORT = Consistency
