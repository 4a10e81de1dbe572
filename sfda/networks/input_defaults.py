"""What an architecture states about its input: size, resize rule, normalisation."""

from __future__ import annotations

import math
from typing import Any, Literal

from sfda.errors import BadInput
from sfda.networks.own import RCNN_SIDES
from sfda.refs import InputSpec

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean and deviation of its colours
SQUEEZE = "fasterrcnn_squeezenet1_1_fpn"
HALF = (0.5, 0.5, 0.5)  # as mean and as deviation: colours in -1 to 1
# 256 pixels and ImageNet's colours, as SimpleBaseline's
POSE = InputSpec(size=(256, 256), mean=IMAGENET[0], std=IMAGENET[1])


def own_input(name: str, answer: str) -> InputSpec:
    """Input of a network of ours: digits in gray, else colours in -1 to 1; of poses ImageNet's."""
    if answer == "classes":
        side = {"lenet": 28, "tiny": 16}[name]
        return InputSpec(size=(side, side), channels="gray", mean=(0.5,), std=(0.5,))
    if answer == "masks":
        side = {"unet": 64, "tinyunet": 32}[name]
        return InputSpec(size=(side, side), mean=HALF, std=HALF)
    if answer == "joints":
        return POSE.model_copy(update={"size": (64, 64)})
    side = RCNN_SIDES[name]
    return InputSpec(size=(side, side), letterbox=True, mean=HALF, std=HALF)


def torchvision_input(name: str, answer: str) -> InputSpec:
    """Input of a network of torchvision's.

    Segmenters were trained on sides of 520 pixels. Detectors are trained with a short side of 800;
    the frame is fixed here, 800 by 1333 pixels and filled where the image leaves room.
    """
    if answer == "classes":
        return _of_classifier(name)
    if answer == "joints":
        return POSE
    if answer == "boxes":
        mean, std = IMAGENET
        size = (320, 640) if "320" in name else (800, 1333)
        size = (320, 320) if name == SQUEEZE else size
        return InputSpec(size=size, letterbox=True, mean=mean, std=std)
    from torchvision import models

    transform = next(iter(models.get_model_weights(name))).transforms()
    side = int(transform.resize_size[0])
    mean, std = tuple(transform.mean), tuple(transform.std)
    return InputSpec(size=(side, side), mean=mean, std=std)


def usual_dropout(arch: str) -> float:
    """Dropout after the bottleneck that the architecture is known with."""
    return 0.5 if arch == "sfda:lenet" else 0.0


def _of_classifier(name: str) -> InputSpec:
    """From the transform of the first ImageNet weights, resized as in SHOT: ratio not kept."""
    from torchvision import models

    weights = {str(member.name): member for member in models.get_model_weights(name)}
    # where there are no V1 weights: those of the size that the network is built for
    preferred = ("IMAGENET1K_V1", "IMAGENET1K_SWAG_LINEAR_V1")
    transform = next(weights[key] for key in preferred if key in weights).transforms()
    side, resize = int(transform.crop_size[0]), int(transform.resize_size[0])
    mean, std = tuple(transform.mean), tuple(transform.std)
    if name in ("googlenet", "inception_v3"):
        # their released weights want (x - 0.5) / 0.5; torchvision's networks convert to it
        # inside if asked to (`transform_input`), ours are not asked
        mean, std = HALF, HALF
    return InputSpec(
        size=(side, side),
        resize=(resize, resize) if resize > side else None,
        interpolation=_interpolation(transform.interpolation.value),
        mean=mean,
        std=std,
    )


def timm_input(name: str) -> InputSpec | None:
    """From the network's pretrained configuration; the middle is cropped, ratio kept. Raises
    BadInput for weights that timm does not name.
    """
    import timm
    from timm.data.config import resolve_data_config

    try:
        pretrained = timm.get_pretrained_cfg(name)
    except RuntimeError as error:  # an unknown tag
        raise BadInput(f"timm cannot build '{name}': {error}") from error
    if pretrained is None:
        return None
    config: dict[str, Any] = resolve_data_config(pretrained_cfg=pretrained.to_dict())
    depth, height, width = config["input_size"]
    if depth not in (1, 3):
        return None
    resize = tuple(math.floor(side / config["crop_pct"]) for side in (height, width))
    return InputSpec(
        size=(height, width),
        resize=resize if resize != (height, width) else None,
        keep_ratio=config["crop_mode"] != "squash",
        interpolation=_interpolation(config["interpolation"]),
        channels="gray" if depth == 1 else "rgb",
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
    )


def _interpolation(name: str) -> Literal["bilinear", "bicubic"]:
    return "bicubic" if name == "bicubic" else "bilinear"
