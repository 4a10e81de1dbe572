"""Which family of networks answers for a name; everything here starts with random weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from sfda.errors import BadInput
from sfda.networks import own, probe, smp, timm, torchvision
from sfda.networks.detector import Detector
from sfda.networks.grammar import parse_classifier, parse_detector, parse_segmenter
from sfda.networks.probe import Parts, SegParts
from sfda.networks.torchvision_detection import faster_rcnn


def native_classifier(arch: str, classes: int) -> nn.Module:
    """The network as its library builds it, with its own last layer for `classes` classes."""
    library, name = parse_classifier(arch)
    if classes < 2:
        raise BadInput(f"a classifier needs at least 2 classes, not {classes}")
    if library == "sfda":
        return own.OWN_CLASSIFIERS[name](classes)
    if library == "torchvision":
        return torchvision.torchvision_classifier(name, classes)
    return timm.timm_classifier(name, classes)


def last_layer(arch: str, network: nn.Module) -> str:
    """Path of the module that turns features into logits, such as `fc` or `classifier.6`."""
    if parse_classifier(arch)[0] == "timm":
        return timm.timm_last_layer(arch, network)
    return probe.last_weighted_layer(network)


def split_classifier(arch: str, network: nn.Module) -> Parts:
    """Cut a network of `native_classifier` before its last layer, in place."""
    return probe.cut_before(network, last_layer(arch, network))


def native_segmenter(arch: str, outputs: int, channels: int) -> nn.Module:
    """The network as its library builds it. Raises BadInput where it cannot."""
    library, name = parse_segmenter(arch)
    if library == "torchvision":
        if channels != 3:
            raise BadInput(f"{arch} takes colour images alone; use smp:... for gray ones")
        return torchvision.torchvision_segmenter(name, outputs)
    return smp.smp_segmenter(name, outputs, channels)


def segmenter_head(arch: str) -> str:
    """Path of the layer that gives the logits, in the names of its library."""
    library, name = parse_segmenter(arch)
    if library == "torchvision":
        return torchvision.torchvision_segmenter_head(name)
    return smp.smp_segmenter_head(name)


def split_segmenter(arch: str, network: nn.Module) -> SegParts:
    """The parts of a network that `native_segmenter` built; they are its own modules."""
    if parse_segmenter(arch)[0] == "torchvision":
        return torchvision.torchvision_segmenter_parts(network)
    return smp.smp_segmenter_parts(network)


def detector(
    arch: str, classes: int, depth: int = 3, *, config: Mapping[str, Any] | None = None
) -> Detector:
    """The detector of a name, or, of mmdet, of the `model` part of a configuration."""
    library, name = parse_detector(arch)
    if library == "mmdet":
        from sfda.networks.mmdet import mmdet_detector  # takes seconds

        return mmdet_detector(config or {}, classes, depth)
    if library == "torchvision":
        return faster_rcnn(name, classes, depth)
    return own.own_detector(name, classes, depth)


def pose_backbone(name: str) -> nn.Module:
    """The part of a network that gives its last map, by what `parse_pose` says."""
    if name == "tiny":
        return own.own_map()
    if name.startswith("timm:"):
        return timm.timm_map(name.removeprefix("timm:"))
    if name not in torchvision.classifier_names():
        raise BadInput(
            f"no backbone pose:{name}; say pose:resnet50, another of torchvision's classifiers, "
            "pose:timm:NAME or pose:tiny"
        )
    return torchvision.torchvision_map(name)
