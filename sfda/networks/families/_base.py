"""What a family of networks is: a library whose networks `--arch LIBRARY:NAME` names."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from torch import nn

from sfda.networks import probe
from sfda.networks.probe import Parts, SegParts
from sfda.refs import InputSpec

Answer = Literal["classes", "masks", "boxes", "joints"]
"""What a network says of an image. A problem states which its networks give (`Problem.answer`)."""


class Family(ABC):
    """A library of networks. A file of this folder, or a class that another distribution adds by
    the entry point group `sfda.networks`; its networks start with random weights.
    """

    idea: ClassVar[str] = ""  # what networks there are, in one clause, for tables
    answers: ClassVar[frozenset[Answer]]  # what its networks can give
    forms: ClassVar[Mapping[str, str]] = {}  # how an arch is written, by answer, for messages

    @abstractmethod
    def known(self, name: str, answer: Answer) -> str | None:
        """The name as models store it; None where the library has no such network."""

    @abstractmethod
    def build(self, name: str, answer: Answer, outputs: int, depth: int) -> nn.Module:
        """The whole network for images of `depth` channels, under its library's names.

        Of classes: images to `outputs` logits. Of masks: to a map of logits. Of joints: to a
        heatmap each. Of boxes: a `sfda.networks.detector.Detector`. Raises BadInput.
        """

    def alike(self, name: str, answer: Answer) -> list[str]:
        """Whole values of `--arch` that look like this one, to be proposed."""
        return []

    def input(self, name: str, answer: Answer) -> InputSpec | None:
        """How the network wants its images; None where it states nothing."""
        return None

    def head(self, name: str, network: nn.Module) -> str:
        """Path of the layer that gives the logits."""
        return probe.last_weighted(network)

    def cut(self, name: str, network: nn.Module) -> Parts:
        """The network cut before its head, in place."""
        return probe.cut_layer(network, self.head(name, network))

    def segmenter_parts(self, name: str, network: nn.Module) -> SegParts:
        """A segmenter in three parts, which are its own modules."""
        return probe.map_parts(network, (self.head(name, network),))

    def last_map(self, name: str) -> nn.Module | None:
        """Of joints: the part that gives the last map of features, which heatmaps are made of by
        deconvolutions of ours; None where `build` gives heatmaps itself.
        """
        return None

    def stored_config(self, name: str, outputs: int) -> tuple[str, dict[str, Any] | None]:
        """Name and configuration that a model of this name stores."""
        return name, None

    def from_config(self, config: Mapping[str, Any], outputs: int, depth: int) -> nn.Module | None:
        """The network of a stored configuration; None: models of this family store none."""
        return None
