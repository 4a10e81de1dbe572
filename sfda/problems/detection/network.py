"""Detection: boxes with a class each. The networks, their loss, and boxes as pseudo-labels."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, NamedTuple, Self

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sfda.building_blocks.boxes import SIDE, Boxes, sure_boxes
from sfda.errors import BadInput
from sfda.refs import InputSpec, ModelSpec, Views
from sfda.types import Images, Losses

Features = Any  # what a detector's backbone gives: maps by name, or a tuple of them
BLUR = 2.0 / 600  # largest sigma by the image's short side, as LPLD's 2 pixels of 600


def views_for(input: InputSpec | None) -> Views:
    """Usual views: LPLD's colours and blur, but no rectangles of noise.

    Those are `erase: [0.7, 0.5, 0.3]` in its release. On the built-in trays rectangles so often and
    so large, then of one colour each, led every detector to lose a class. Nothing is mirrored.
    """
    sigma = max(0.1, BLUR * min(input.size)) if input else None
    return Views(crop=False, flip=False, jittered=0.8, blur_sigma=sigma, erase=0.0)


class DetOutput(NamedTuple):
    """What a detector says of a batch: boxes by image, and logits of all that it looked at.

    The logits tell that the answers are numbers at all: boxes that are not are never answered.
    """

    found: list[Boxes]
    logits: Float[Tensor, "R C"]


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
    counts nothing. What overlaps `doubtful` boxes is not taught to be background. Without
    `regression` the boxes teach classes alone. `smoothing` is not known to detectors: anything but
    0 is refused.
    """
    if smoothing:
        raise BadInput("detectors know no label smoothing: set smoothing to 0")
    if empty == "skip":
        held = [i for i, found in enumerate(targets) if len(found.boxes)]
        if not held:
            return {"class": nothing(model)}
        if len(held) < len(targets):
            images, targets = images[held], [targets[i] for i in held]
            doubtful = None if doubtful is None else [doubtful[i] for i in held]
            features = None if features is None else picked(features, held)
    found = model.loss(images, targets, features, append=append, doubtful=doubtful)
    return {name: term for name, term in found.items() if regression or "box" not in name}


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
    return [sure_boxes(found, threshold, side) for found in model(images).found]


def defaults(arch: str) -> tuple[InputSpec | None, Views]:
    """Input and usual random views of an architecture; no input where it states none."""
    found = _adapter(arch).usual_input(_parse(arch)[1])
    return found, views_for(found)


def make_spec(
    arch: str,
    classes: tuple[str, ...],
    *,
    input: InputSpec | None = None,
    views: Views | None = None,
) -> ModelSpec:
    """A spec with what the architecture states filled in; BadInput if it states no input.

    Of an mmdet configuration file the part that says what the model is goes into the spec, so that
    a bundle needs no other file.
    """
    library, name = _parse(arch)
    stated, _ = defaults(arch)
    chosen = input or stated
    if chosen is None:
        raise BadInput(f"{arch} does not state its input: give its size, mean, std and channels")
    if chosen.tiled or chosen.keep_ratio or chosen.resize:
        raise BadInput(
            "a detector sees whole images: leave out tiled, keep_ratio and resize; with "
            "`letterbox` the ratio is kept and the rest of the frame filled"
        )
    if len(set(classes)) != len(classes) or not classes:
        twice = sorted({c for c in classes if classes.count(c) > 1})
        raise BadInput(f"classes must be named, each once; named twice: {', '.join(twice)}")
    config = None
    if library == "mmdet":
        from sfda.networks import mmdet as det_mmdet

        arch, config = det_mmdet.resolved(name, len(classes))
    return ModelSpec(
        problem="detection",
        arch=arch,
        classes=classes,
        input=chosen,
        views=views or views_for(chosen),
        head="plain",
        config=config,
    )


def build_from_spec(spec: ModelSpec) -> Detector:
    """The detector that a bundle's weights fit, with random weights."""
    library, name = _parse(spec.arch)
    given: Any = (spec.config or {}) if library == "mmdet" else name
    found: Detector = _adapter(spec.arch).build(given, len(spec.classes), spec.input.depth)
    return found


def _adapter(arch: str) -> Any:
    """The module of the library, imported when it is asked for: mmdet's takes seconds."""
    names = {"torchvision": "torchvision_detection", "mmdet": "mmdet", "sfda": "own_detector"}
    return importlib.import_module(f"sfda.networks.{names[_parse(arch)[0]]}")


def _parse(arch: str) -> tuple[str, str]:
    library, _, name = arch.partition(":")
    if library not in ("torchvision", "mmdet", "sfda") or not name:
        raise BadInput(
            f"no detector '{arch}'; say torchvision:fasterrcnn_resnet50_fpn, mmdet:CONFIG.py or "
            "sfda:tinyrcnn"
        )
    return library, name
