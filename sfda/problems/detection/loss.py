"""What a detector learns by: its own losses for boxes, and boxes out of its own outputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from sfda.building_blocks.boxes import SIDE, Boxes, sure_boxes
from sfda.errors import BadInput
from sfda.networks.detector import Detector, Features
from sfda.types import Images, Losses


def loss(
    model: Detector,
    images: Images,
    targets: Sequence[Boxes],
    *,
    features: Features | None = None,
    append: bool = False,
    doubtful: Sequence[Boxes] | None = None,
    empty: Literal["background", "skip"] = "background",
    regression: bool = True,
    smoothing: float = 0.0,
) -> Losses:
    """The detector's losses for these boxes, each a scalar on the graph.

    An image without boxes is all background (the published behaviour of LPLD), or, with `skip`,
    counts nothing: without a box in any there are no losses, and no step is taken. What overlaps
    `doubtful` boxes is not taught to be background. Without `regression` the boxes teach classes
    alone. `smoothing` is not known to detectors: anything but 0 is refused.
    """
    if smoothing:
        raise BadInput("detectors know no label smoothing: set smoothing to 0")
    if empty == "skip":
        held = [i for i, drawn in enumerate(targets) if len(drawn.boxes)]
        if not held:
            return {}
        if len(held) < len(targets):
            images, targets = images[held], [targets[i] for i in held]
            doubtful = None if doubtful is None else [doubtful[i] for i in held]
            features = None if features is None else picked(features, held)
    losses = model.loss(images, targets, features, append=append, doubtful=doubtful)
    return {name: term for name, term in losses.items() if regression or "box" not in name}


def nothing(model: nn.Module) -> Tensor:
    """A zero that every trained parameter has a part in."""
    trained = [p for p in model.parameters() if p.requires_grad]
    return torch.stack([0.0 * p.sum() for p in trained]).sum() if trained else torch.zeros(())


def picked(features: Features, rows: list[int]) -> Features:
    """The maps of some images of a batch."""
    if isinstance(features, dict):
        return type(features)((name, part[rows]) for name, part in features.items())
    return type(features)(part[rows] for part in features)


@torch.no_grad()
def pseudo_labels(
    model: Detector, images: Images, threshold: float, *, side: float = SIDE
) -> list[Boxes]:
    """Boxes that the detector scores strictly above `threshold` and that have an area.

    The network stays in the mode it is in: put it in eval mode first.
    """
    return [sure_boxes(boxes, threshold, side) for boxes in model(images).boxes]
