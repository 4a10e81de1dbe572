"""Detection: boxes with a class each. The networks, their loss, and boxes as pseudo-labels."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sfda.building_blocks.boxes import SIDE, Boxes, sure_boxes
from sfda.errors import BadInput
from sfda.networks.detector import Detector, Features
from sfda.refs import InputSpec, ModelSpec, Views
from sfda.types import Images, Losses

BLUR = 2.0 / 600  # largest sigma by the image's short side, as LPLD's 2 pixels of 600


def views_for(input: InputSpec | None) -> Views:
    """Usual views: LPLD's colours and blur, but no rectangles of noise.

    Those are `erase: [0.7, 0.5, 0.3]` in its release. On the built-in trays rectangles so often and
    so large, then of one colour each, led every detector to lose a class. Nothing is mirrored.
    """
    sigma = max(0.1, BLUR * min(input.size)) if input else None
    return Views(crop=False, flip=False, jittered=0.8, blur_sigma=sigma, erase=0.0)


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
