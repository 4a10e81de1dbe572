"""torchvision's classifiers and segmenters, with random weights, and where each falls into parts.

Its detectors are in `torchvision_detection.py`.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision import models
from torchvision.models import segmentation
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.segmentation.lraspp import LRASPPHead

from sfda.errors import BadInput
from sfda.networks.probe import SegParts

# auxiliary classifiers, which serve training from scratch alone


def classifier_names() -> list[str]:
    """Names of all classifiers."""
    return [str(name) for name in models.list_models(module=models)]


def torchvision_classifier(name: str, classes: int) -> nn.Module:
    """A classifier with its own last layer for `classes` classes."""
    if name in ("googlenet", "inception_v3"):
        network = models.get_model(
            name, weights=None, num_classes=classes, aux_logits=False, init_weights=True
        )
    else:
        network = models.get_model(name, weights=None, num_classes=classes)
    assert isinstance(network, nn.Module)
    return network


def torchvision_map(name: str) -> nn.Module:
    """The part of a classifier that gives its last map of features."""
    network: Any = models.get_model(name, weights=None)
    if hasattr(network, "layer4"):
        return _UpToLayer(network, {"layer4": "0"})
    if hasattr(network, "features"):
        part: nn.Module = network.features
        return part
    raise BadInput(f"{name} gives no map of features; use timm:NAME for such a network")


class _UpToLayer(IntermediateLayerGetter):  # type: ignore[misc]
    """A network up to one of its layers, under its own names."""

    def forward(self, images: Tensor) -> Tensor:
        """The map of that layer."""
        last: Tensor = list(super().forward(images).values())[-1]
        return last


def segmenter_names() -> list[str]:
    """Names of all segmenters."""
    return [str(name) for name in models.list_models(module=segmentation)]


def torchvision_segmenter(name: str, outputs: int) -> nn.Module:
    """A segmenter of colour images, without a backbone's weights."""
    network: nn.Module = models.get_model(
        name, weights=None, weights_backbone=None, num_classes=outputs
    )
    return network


def torchvision_segmenter_head(name: str) -> str:
    """Path of the layer that gives a segmenter's logits."""
    last = {"fcn": "classifier.4", "deeplabv3": "classifier.4"}
    return last.get(name.partition("_")[0], "classifier.low_classifier")


def torchvision_segmenter_parts(network: nn.Module) -> SegParts:
    """The parts of a segmenter; they are its own modules."""
    parts: Any = network
    if isinstance(network, segmentation.LRASPP):
        head: Any = SumOfTwo(parts.classifier)
        width = head.low.in_channels + head.high.in_channels
        return SegParts(parts.backbone, TwoMaps(parts.classifier), head, width, 1)
    layers = list(parts.classifier)
    decoder = LastMap(nn.Sequential(*layers[:-1]))
    return SegParts(parts.backbone, decoder, layers[-1], layers[-1].in_channels, 1)


class LastMap(nn.Module):
    """A decoder that takes the last map alone."""

    def __init__(self, decoder: nn.Module) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, maps: dict[str, Tensor]) -> Tensor:
        """Features of the last map."""
        features: Tensor = self.decoder(maps["out"])
        return features


class TwoMaps(nn.Module):
    """The decoder of LRASPP: the low map, and the high one gated and enlarged."""

    def __init__(self, classifier: LRASPPHead) -> None:
        super().__init__()
        self.cbr, self.scale = classifier.cbr, classifier.scale

    def forward(self, maps: dict[str, Tensor]) -> Tensor:
        """Both maps, one upon the other."""
        low, high = maps["low"], maps["high"]
        high = self.cbr(high) * self.scale(high)
        high = F.interpolate(high, low.shape[-2:], mode="bilinear", align_corners=False)
        return torch.cat([low, high], 1)


class SumOfTwo(nn.Module):
    """The head of LRASPP: logits of either map, added up."""

    def __init__(self, classifier: LRASPPHead) -> None:
        super().__init__()
        self.low, self.high = classifier.low_classifier, classifier.high_classifier

    def forward(self, features: Tensor) -> Tensor:
        """Logits of the maps' size."""
        low, high = features.split([self.low.in_channels, self.high.in_channels], 1)
        logits: Tensor = self.low(low) + self.high(high)
        return logits
