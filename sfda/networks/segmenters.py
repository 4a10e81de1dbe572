"""Segmentation networks by name, as their library builds them, and how each falls into parts.

Names are `smp:unet/resnet18` (any architecture and encoder of segmentation_models_pytorch),
`torchvision:fcn_resnet50`, `sfda:unet` and `sfda:tinyunet`. Nothing here fetches weights: every
network starts with random ones.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision import models
from torchvision.models import segmentation as torchvision_nets

from sfda.errors import BadInput

WIDTHS = {"unet": (16, 32, 64, 128), "tinyunet": (8, 16)}


class SegParts(NamedTuple):
    """A network in three parts: head(decoder(backbone(x))) is what it gave before upsampling."""

    backbone: nn.Module
    decoder: nn.Module
    head: nn.Module
    width: int  # channels of what goes into the head
    multiple: int  # the images' sides must be multiples of it


class Levels(nn.Module):
    """The encoder of our own U-Nets: maps of falling size, the largest first."""

    def __init__(self, channels: int, widths: Sequence[int], convs: int) -> None:
        super().__init__()
        inputs = (channels, *widths[:-1])
        self.levels = nn.ModuleList(block(a, b, convs) for a, b in zip(inputs, widths, strict=True))

    def forward(self, images: Tensor) -> list[Tensor]:
        """One map a level, each half as large as the one before."""
        found = [self.levels[0](images)]
        for level in list(self.levels)[1:]:
            found.append(level(F.max_pool2d(found[-1], 2)))
        return found


class Climb(nn.Module):
    """The decoder of our own U-Nets: from the smallest map up, each level joined."""

    def __init__(self, widths: Sequence[int], convs: int) -> None:
        super().__init__()
        self.levels = nn.ModuleList(
            block(below + beside, beside, convs)
            for beside, below in zip(widths[-2::-1], widths[:0:-1], strict=True)
        )

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Features of the images' size."""
        found = maps[-1]
        for level, beside in zip(self.levels, maps[-2::-1], strict=True):
            found = F.interpolate(found, beside.shape[-2:], mode="nearest")
            found = level(torch.cat([found, beside], 1))
        return found


class Unpacked(nn.Module):
    """A decoder that takes what the backbone gives as two arguments: smp's DPT."""

    def __init__(self, decoder: nn.Module) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, found: tuple[Any, Any]) -> Tensor:
        """Features of maps and prefix tokens."""
        features: Tensor = self.decoder(*found)
        return features


class LastMap(nn.Module):
    """A decoder of torchvision's: it takes the last map alone."""

    def __init__(self, decoder: nn.Module) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, maps: dict[str, Tensor]) -> Tensor:
        """Features of the last map."""
        features: Tensor = self.decoder(maps["out"])
        return features


class TwoMaps(nn.Module):
    """The decoder of torchvision's LRASPP: the low map, and the high one gated and enlarged."""

    def __init__(self, native: Any) -> None:
        super().__init__()
        self.cbr, self.scale = native.cbr, native.scale

    def forward(self, maps: dict[str, Tensor]) -> Tensor:
        """Both maps, one upon the other."""
        low, high = maps["low"], maps["high"]
        high = self.cbr(high) * self.scale(high)
        high = F.interpolate(high, low.shape[-2:], mode="bilinear", align_corners=False)
        return torch.cat([low, high], 1)


class SumOfTwo(nn.Module):
    """The head of torchvision's LRASPP: logits of either map, added up."""

    def __init__(self, native: Any) -> None:
        super().__init__()
        self.low, self.high = native.low_classifier, native.high_classifier

    def forward(self, features: Tensor) -> Tensor:
        """Logits of the maps' size."""
        low, high = features.split([self.low.in_channels, self.high.in_channels], 1)
        logits: Tensor = self.low(low) + self.high(high)
        return logits


def block(inputs: int, outputs: int, convs: int) -> nn.Sequential:
    """So many times: convolution of 3x3, batch norm, ReLU."""
    layers: list[nn.Module] = []
    for n in range(convs):
        layers += [
            nn.Conv2d(outputs if n else inputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers)


def parse(arch: str) -> tuple[str, str]:
    """Library and name of a known architecture.

    >>> parse("smp:unet/resnet18"), parse("sfda:unet")
    (('smp', 'unet/resnet18'), ('sfda', 'unet'))
    """
    library, _, name = arch.partition(":")
    if library == "sfda" and name in WIDTHS:
        return library, name
    if library == "torchvision" and name in _torchvision_names():
        return library, name
    if library == "smp":
        network, _, encoder = name.partition("/")
        if network.lower() in _smp_networks() and _is_encoder(encoder):
            return library, f"{network.lower()}/{encoder}"
    raise BadInput(_unknown(arch))


def own(name: str, outputs: int, channels: int) -> SegParts:
    """Our own U-Nets: `unet` with 0.5 million parameters, `tinyunet` with 3,500, for tests."""
    widths, convs = WIDTHS[name], 2 if name == "unet" else 1
    return SegParts(
        Levels(channels, widths, convs),
        Climb(widths, convs),
        nn.Conv2d(widths[0], outputs, kernel_size=1),
        widths[0],
        2 ** (len(widths) - 1),
    )


def native(arch: str, outputs: int, channels: int) -> nn.Module:
    """The network as its library builds it. Raises BadInput where it cannot."""
    library, name = parse(arch)
    if library == "torchvision":
        if channels != 3:
            raise BadInput(f"{arch} takes colour images alone; use smp:... for gray ones")
        network: nn.Module = models.get_model(
            name, weights=None, weights_backbone=None, num_classes=outputs
        )
        return network
    import segmentation_models_pytorch as smp

    network_name, _, encoder = name.partition("/")
    try:
        found: nn.Module = smp.create_model(
            network_name, encoder, encoder_weights=None, in_channels=channels, classes=outputs
        )
    # the last two: what timm raises where an encoder has fewer levels than smp asks for
    except (ValueError, TypeError, RuntimeError, LookupError, AttributeError) as error:
        raise BadInput(f"segmentation_models_pytorch cannot build {arch}: {error}") from error
    return found


def split(arch: str, network: nn.Module) -> SegParts:
    """The parts of a network that `native` built; they are its own modules."""
    if parse(arch)[0] == "torchvision":
        return _split_torchvision(network)
    parts: Any = network
    decoder = Unpacked(parts.decoder) if type(network).__name__ == "DPT" else parts.decoder
    multiple = parts.encoder.output_stride if parts.requires_divisible_input_shape else 1
    head: nn.Module = parts.segmentation_head
    return SegParts(parts.encoder, decoder, head, _width(head), int(multiple))


def head_name(arch: str) -> str:
    """Path of the layer that gives the logits, in the names of its library."""
    library, name = parse(arch)
    if library == "torchvision":
        last = {"fcn": "classifier.4", "deeplabv3": "classifier.4"}
        return last.get(name.partition("_")[0], "classifier.low_classifier")
    return "segmentation_head.head.4" if name.startswith("dpt/") else "segmentation_head.0"


def _split_torchvision(network: nn.Module) -> SegParts:
    parts: Any = network
    if isinstance(network, torchvision_nets.LRASPP):
        head: Any = SumOfTwo(parts.classifier)
        width = head.low.in_channels + head.high.in_channels
        return SegParts(parts.backbone, TwoMaps(parts.classifier), head, width, 1)
    layers = list(parts.classifier)
    decoder = LastMap(nn.Sequential(*layers[:-1]))
    return SegParts(parts.backbone, decoder, layers[-1], layers[-1].in_channels, 1)


def _width(head: nn.Module) -> int:
    """Channels that go into the head."""
    return next(m.in_channels for m in head.modules() if isinstance(m, nn.Conv2d))


def _torchvision_names() -> list[str]:
    return [str(name) for name in models.list_models(module=torchvision_nets)]


def _smp_networks() -> list[str]:
    import segmentation_models_pytorch as smp  # takes seconds, and most runs never need it

    return sorted(smp.MODEL_ARCHITECTURES_MAPPING)


def _is_encoder(name: str) -> bool:
    import segmentation_models_pytorch as smp
    import timm

    # smp's own former ports, which it now takes from timm
    if name.startswith(("timm-regnet", "timm-res2", "timm-resnest", "timm-gernet")):
        name = name.replace("timm-", "tu-", 1)
    name = name.replace("timm-mobilenetv3", "tu-tf_mobilenetv3", 1)
    if name.startswith("tu-"):
        return bool(timm.is_model(name.removeprefix("tu-").partition(".")[0]))
    return name in smp.encoders.encoders


def _unknown(arch: str) -> str:
    """What to say of a name that no library has."""
    library, colon, name = arch.partition(":")
    wanted = name if colon else arch
    near = [f"sfda:{n}" for n in difflib.get_close_matches(wanted, WIDTHS)]
    near += [f"torchvision:{n}" for n in difflib.get_close_matches(wanted, _torchvision_names())]
    if library == "smp":
        import segmentation_models_pytorch as smp

        network, _, encoder = name.partition("/")
        networks = [network] if network in _smp_networks() else []
        networks = networks or difflib.get_close_matches(network, _smp_networks()) or ["unet"]
        encoders = difflib.get_close_matches(encoder, smp.encoders.encoders) or ["resnet18"]
        near = [f"smp:{a}/{b}" for a in networks[:2] for b in encoders[:3]]
    hint = f"; did you mean {', '.join(near)}?" if near else ""
    forms = "smp:<architecture>/<encoder>, torchvision:<name>, sfda:unet or sfda:tinyunet"
    return f"no architecture '{arch}' for segmentation: it is written {forms}{hint}"
