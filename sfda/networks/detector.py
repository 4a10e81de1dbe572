"""What every detector offers, whatever library it is from: features, losses and regions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple, Self

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sfda.building_blocks.boxes import Boxes
from sfda.errors import BadInput
from sfda.types import Images, Losses

Features = Any  # what a detector's backbone gives: maps by name, or a tuple of them


class DetOutput(NamedTuple):
    """What a detector makes of a batch: boxes by image, and logits of all its proposals.

    The logits tell that the predictions are numbers at all: boxes that are not never come out.
    """

    boxes: list[Boxes]
    logits: Float[Tensor, "R C"]

    @property
    def problem(self) -> str:
        """The problem that this is an output of."""
        return Detector.problem


class Regions(NamedTuple):
    """Proposals of a batch, one row each in the images' order, and what a detector says of them.

    `logits` have the background last; `features` are what goes into the last layers; `refined` is
    the box of the likeliest class, not clipped to the image, or the proposal itself where that is
    the background. `detections` are empty where the proposals were given.
    """

    proposals: list[Float[Tensor, "n 4"]]
    features: Float[Tensor, "R D"]
    logits: Float[Tensor, "R C"]
    refined: Float[Tensor, "R 4"]
    detections: list[Boxes]


class Detector(nn.Module):
    """Images to boxes. Every library's detector stands behind this; all boxes are in pixels of the
    images given, and the background is the last column.

    Batch-norm layers stay in eval mode in training too, as is usual in detection, unless
    `live_norms` says that the network is trained from nothing.
    """

    problem: ClassVar[str] = "detection"
    two_stage: ClassVar[bool] = True
    num_classes: int

    def __init__(self) -> None:
        super().__init__()
        self.frozen: frozenset[str] = frozenset()  # names of children that never train
        self.live_norms = False

    def train(self, mode: bool = True) -> Self:
        """Training mode for all but batch norm."""
        super().train(mode)
        if mode and not self.live_norms:
            for layer in self.modules():
                if isinstance(layer, _BatchNorm):
                    layer.eval()
        return self

    def forward(self, images: Images) -> DetOutput:
        """Boxes of every image, in eval mode."""
        raise NotImplementedError(f"{type(self).__name__} answers nothing")

    def features(self, images: Images) -> Features:
        """Maps that `loss` and `regions` take, so that a step needs one pass of the backbone."""
        raise NotImplementedError(f"{type(self).__name__} has no features")

    def loss(
        self,
        images: Images,
        boxes: Sequence[Boxes],
        features: Features | None = None,
        *,
        append: bool = False,
        doubtful: Sequence[Boxes] | None = None,
    ) -> Losses:
        """The library's own training losses, in training mode.

        Two-stage: `objectness` and `rpn_box` of the anchors, `class` and `box` of the regions.
        `append` adds the boxes to the proposals, as is usual with boxes that a person drew. What
        overlaps `doubtful` boxes is not taught to be background.
        """
        raise NotImplementedError(f"{type(self).__name__} has no loss")

    def regions(
        self,
        images: Images,
        proposals: Sequence[Float[Tensor, "n 4"]] | None = None,
        features: Features | None = None,
    ) -> Regions:
        """What the second stage says of `proposals`; of its own where None are given."""
        raise BadInput(
            f"{type(self).__name__} has no regions: it is no two-stage detector with one box head"
        )


def as_detector(network: nn.Module, arch: str) -> Detector:
    """The network, if it is a detector as methods know it. Raises BadInput."""
    if not isinstance(network, Detector):
        raise BadInput(
            f"{arch} is no sfda.networks.detector.Detector; a detector of your own is an adapter "
            "that derives from it: see docs/networks.md"
        )
    return network
