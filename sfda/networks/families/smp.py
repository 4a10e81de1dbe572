"""segmentation_models_pytorch: `smp:unet/resnet18`, any architecture on any encoder."""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from sfda.networks import smp
from sfda.networks.families._base import Answer, Family
from sfda.networks.probe import SegParts


class Smp(Family):
    """Segmenters that take images of any size; no weights of theirs are for segmentation."""

    idea = "segmentation_models_pytorch: any architecture on any encoder"
    answers: ClassVar[frozenset[Answer]] = frozenset({"masks"})
    forms: ClassVar = {"masks": "smp:<architecture>/<encoder>"}

    def known(self, name: str, answer: Answer) -> str | None:
        """With the architecture in small letters, if both halves are there."""
        network, _, encoder = name.partition("/")
        if network.lower() in smp.smp_networks() and smp.is_encoder(encoder):
            return f"{network.lower()}/{encoder}"
        return None

    def alike(self, name: str, answer: Answer) -> list[str]:
        """Pairs that exist."""
        return [f"smp:{pair}" for pair in smp.like_smp(name)]

    def build(self, name: str, answer: Answer, outputs: int, depth: int) -> nn.Module:
        """A segmenter."""
        return smp.smp_segmenter(name, outputs, depth)

    def head(self, name: str, network: nn.Module) -> str:
        """The layer of the logits, in the library's names."""
        return smp.smp_segmenter_head(name)

    def segmenter_parts(self, name: str, network: nn.Module) -> SegParts:
        """Encoder, decoder and head."""
        return smp.smp_segmenter_parts(network)


EXPORT = Smp
