"""What every validator is: fed once over the target, it gives one number; higher is better."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, cast

from jaxtyping import Float
from torch import Tensor, nn

from sfda.problems.classification.network import Classifier
from sfda.problems.registry import ProblemsOfNetworks
from sfda.problems.segmentation.network import Segmenter
from sfda.types import SeenViews

SCORED_PIXELS = 4096  # of one image that a score is taken over


class Validator:
    """A score of a model on the target without labels. One scan feeds all validators."""

    networks: ClassVar[tuple[type[nn.Module], ...]] = (Classifier, Segmenter)
    """Classes of networks that it can score."""
    problems: ClassVar[frozenset[str]] = cast("frozenset[str]", ProblemsOfNetworks())
    """Problems that it serves: by default those of `networks`."""
    needs_views: ClassVar[bool] = False  # also outputs on a weak and a strong view
    needs_source: ClassVar[bool] = False  # `refer` is called with what the source model says

    needs_prior: ClassVar[bool] = False  # only of networks with a prior of poses

    def refer(self, profile: Mapping[str, Any]) -> None:
        """Take the profile of the source model's predictions, where `needs_source`."""

    def update(self, seen: SeenViews) -> None:
        """Take in one batch of outputs."""
        raise NotImplementedError(f"{type(self).__name__} takes nothing in")

    def compute(self) -> float:
        """The score over all that was taken in; ValueError if that is nothing."""
        raise NotImplementedError(f"{type(self).__name__} computes nothing")


def rows_of(logits: Float[Tensor, "B C *HW"]) -> Float[Tensor, "M C"]:
    """Logits as rows: of images as they are, of maps one row a pixel.

    Of a map with more than 4,096 pixels a regular grid counts, of at most about as many:
    neighbours say much the same.
    """
    if logits.ndim == 2:
        return logits
    height, width = logits.shape[2:]
    stride = math.ceil(math.sqrt(height * width / SCORED_PIXELS))
    top, left = min(stride, height) // 2, min(stride, width) // 2
    thin = logits[..., top::stride, left::stride]
    return thin.permute(0, 2, 3, 1).reshape(-1, logits.shape[1])
