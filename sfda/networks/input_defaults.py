"""What an architecture states about its input: size, resize rule, normalisation, usual views."""

from __future__ import annotations

import math
from typing import Any

from torchvision import models

from sfda.networks.classifiers import parse
from sfda.refs import InputSpec, Views

# digits: mirrored or cropped they are others, and SHOT's MNIST -> USPS augments nothing
STILL = Views(crop=False, flip=False)


def defaults(arch: str) -> tuple[InputSpec | None, Views]:
    """Input and usual random views of an architecture; no input where it states none."""
    library, name = parse(arch)
    if library == "sfda":
        side = {"lenet": 28, "tiny": 16}[name]
        return InputSpec(size=(side, side), channels="gray", mean=(0.5,), std=(0.5,)), STILL
    if library == "torchvision":
        return _torchvision(name), Views()
    return _timm(name), Views()


def dropout(arch: str) -> float:
    """Dropout after the bottleneck that the architecture is known with."""
    return 0.5 if arch == "sfda:lenet" else 0.0


def _torchvision(name: str) -> InputSpec:
    """From the transform of the first ImageNet weights, resized as in SHOT: ratio not kept."""
    found = {str(member.name): member for member in models.get_model_weights(name)}
    # where there are no V1 weights: those of the size that the network is built for
    wanted = ("IMAGENET1K_V1", "IMAGENET1K_SWAG_LINEAR_V1")
    transform = next(found[key] for key in wanted if key in found).transforms()
    side, resize = int(transform.crop_size[0]), int(transform.resize_size[0])
    mean, std = tuple(transform.mean), tuple(transform.std)
    if name in ("googlenet", "inception_v3"):
        # their released weights want (x - 0.5) / 0.5; torchvision's networks convert to it
        # inside if asked to (`transform_input`), ours are not asked
        mean, std = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
    return InputSpec(
        size=(side, side),
        resize=(resize, resize) if resize > side else None,
        interpolation=_interpolation(transform.interpolation.value),
        mean=mean,
        std=std,
    )


def _timm(name: str) -> InputSpec | None:
    """From the network's pretrained configuration; the middle is cropped, ratio kept."""
    import timm
    from timm.data.config import resolve_data_config

    found = timm.get_pretrained_cfg(name)
    if found is None:
        return None
    config: dict[str, Any] = resolve_data_config(pretrained_cfg=found.to_dict())
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


def _interpolation(name: str) -> Any:
    return name if name in ("bilinear", "bicubic") else "bilinear"
