"""Our own networks, small enough for a CPU: `sfda:lenet`, `sfda:tinyunet`, `sfda:tinyrcnn` ..."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import ClassVar

from torch import nn

from sfda.networks import input_defaults, own
from sfda.networks.families._base import Answer, Family
from sfda.networks.probe import SegParts
from sfda.refs import InputSpec

OUR_NETWORKS: Mapping[Answer, tuple[str, ...]] = {
    "classes": tuple(own.OWN_CLASSIFIERS),
    "masks": tuple(own.UNETS),
    "boxes": tuple(own.RCNN_SIDES),
    "joints": ("tiny",),
}


class Own(Family):
    """Networks for digits, demos and tests."""

    idea = "networks of our own, small enough for a CPU: for digits, demos and tests"
    answers: ClassVar[frozenset[Answer]] = frozenset(OUR_NETWORKS)
    forms: ClassVar = {
        "classes": "sfda:lenet or sfda:tiny",
        "masks": "sfda:unet or sfda:tinyunet",
        "boxes": "sfda:tinyrcnn",
        "joints": "sfda:tiny",
    }

    def known(self, name: str, answer: Answer) -> str | None:
        """Itself, if it is ours."""
        return name if name in OUR_NETWORKS[answer] else None

    def alike(self, name: str, answer: Answer) -> list[str]:
        """Names that we have."""
        return [f"sfda:{other}" for other in difflib.get_close_matches(name, OUR_NETWORKS[answer])]

    def input(self, name: str, answer: Answer) -> InputSpec | None:
        """What it was made for."""
        return input_defaults.own_input(name, answer)

    def build(self, name: str, answer: Answer, outputs: int, depth: int) -> nn.Module:
        """A classifier, a segmenter or a detector."""
        if answer == "boxes":
            return own.own_detector(name, outputs, depth)
        if answer == "masks":
            return own.UNet(name, outputs, depth)
        return own.OWN_CLASSIFIERS[name](outputs)

    def segmenter_parts(self, name: str, network: nn.Module) -> SegParts:
        """The parts that it is made of."""
        assert isinstance(network, own.UNet)
        return network.parts

    def last_map(self, name: str) -> nn.Module:
        """Maps of 64 channels, stride 8."""
        return own.own_map()


EXPORT = Own
