"""Segmenters of segmentation_models_pytorch, by architecture and encoder, with random weights.

The library is imported when it is asked for: that takes seconds, and most runs never need it.
"""

from __future__ import annotations

import difflib
from typing import Any

from torch import Tensor, nn

from sfda.errors import BadInput
from sfda.networks.probe import SegParts
from sfda.networks.timm import is_timm


def smp_networks() -> list[str]:
    """Names of all architectures."""
    import segmentation_models_pytorch as smp

    return sorted(smp.MODEL_ARCHITECTURES_MAPPING)


def is_encoder(name: str) -> bool:
    """Whether there is an encoder of this name, timm's by `tu-` among them."""
    import segmentation_models_pytorch as smp

    # smp's own former ports, which it now takes from timm
    if name.startswith(("timm-regnet", "timm-res2", "timm-resnest", "timm-gernet")):
        name = name.replace("timm-", "tu-", 1)
    name = name.replace("timm-mobilenetv3", "tu-tf_mobilenetv3", 1)
    if name.startswith("tu-"):
        return is_timm(name.removeprefix("tu-"))
    return name in smp.encoders.encoders


def like_smp(name: str) -> list[str]:
    """Pairs of architecture and encoder that exist and look like this one."""
    import segmentation_models_pytorch as smp

    network, _, encoder = name.partition("/")
    networks = [network] if network in smp_networks() else []
    networks = networks or difflib.get_close_matches(network, smp_networks()) or ["unet"]
    encoders = difflib.get_close_matches(encoder, smp.encoders.encoders) or ["resnet18"]
    return [f"{a}/{b}" for a in networks[:2] for b in encoders[:3]]


def smp_segmenter(name: str, outputs: int, channels: int) -> nn.Module:
    """The network `architecture/encoder`. Raises BadInput where the library cannot build it."""
    import segmentation_models_pytorch as smp

    network_name, _, encoder = name.partition("/")
    try:
        network: nn.Module = smp.create_model(
            network_name, encoder, encoder_weights=None, in_channels=channels, classes=outputs
        )
    # the last two: what timm raises where an encoder has fewer levels than smp asks for
    except (ValueError, TypeError, RuntimeError, LookupError, AttributeError) as error:
        raise BadInput(f"segmentation_models_pytorch cannot build smp:{name}: {error}") from error
    return network


def smp_segmenter_head(name: str) -> str:
    """Path of the layer that gives the logits."""
    return "segmentation_head.head.4" if name.startswith("dpt/") else "segmentation_head.0"


def smp_segmenter_parts(network: nn.Module) -> SegParts:
    """The parts of a network; they are its own modules."""
    parts: Any = network
    decoder = Unpacked(parts.decoder) if type(network).__name__ == "DPT" else parts.decoder
    multiple = parts.encoder.output_stride if parts.requires_divisible_input_shape else 1
    head: nn.Module = parts.segmentation_head
    width = next(m.in_channels for m in head.modules() if isinstance(m, nn.Conv2d))
    return SegParts(parts.encoder, decoder, head, width, int(multiple))


class Unpacked(nn.Module):
    """A decoder that takes what the backbone gives as two arguments: DPT's."""

    def __init__(self, decoder: nn.Module) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, pair: tuple[Any, Any]) -> Tensor:
        """Features of maps and prefix tokens."""
        features: Tensor = self.decoder(*pair)
        return features
