"""timm: `timm:convnext_tiny`, a classifier, or the backbone of a network for poses."""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from sfda.networks import input_defaults, probe, timm
from sfda.networks.families._base import Answer, Family
from sfda.networks.probe import Parts
from sfda.refs import InputSpec


class Timm(Family):
    """Any network of timm's own, none of a hub."""

    idea = "classifiers of timm, and its backbones for poses; none of a hub"
    answers: ClassVar[frozenset[Answer]] = frozenset({"classes", "joints"})
    forms: ClassVar = {"classes": "timm:<name>", "joints": "timm:<name>"}

    def known(self, name: str, answer: Answer) -> str | None:
        """Itself, if timm has it."""
        return name if timm.is_timm(name) else None

    def alike(self, name: str, answer: Answer) -> list[str]:
        """Names that timm has."""
        return [f"timm:{other}" for other in timm.like_timm(name)]

    def input(self, name: str, answer: Answer) -> InputSpec | None:
        """From the pretrained configuration; for poses a square of 256 pixels."""
        return input_defaults.timm_input(name) if answer != "joints" else input_defaults.POSE

    def build(self, name: str, answer: Answer, outputs: int, depth: int) -> nn.Module:
        """A classifier."""
        return timm.timm_classifier(name, outputs)

    def head(self, name: str, network: nn.Module) -> str:
        """What timm says it is."""
        return timm.timm_last_layer(f"timm:{name}", network)

    def cut(self, name: str, network: nn.Module) -> Parts:
        """The network cut before its head, in place."""
        return probe.cut_before(network, self.head(name, network))

    def last_map(self, name: str) -> nn.Module:
        """The network without its head."""
        return timm.timm_map(name)


EXPORT = Timm
