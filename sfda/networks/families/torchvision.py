"""torchvision: its classifiers, segmenters and two-stage detectors, and backbones for poses."""

from __future__ import annotations

import difflib
from typing import ClassVar

from torch import nn

from sfda.errors import BadInput
from sfda.networks import input_defaults, probe, torchvision
from sfda.networks.families._base import Answer, Family
from sfda.networks.probe import Parts, SegParts
from sfda.networks.torchvision_detection import faster_rcnn
from sfda.refs import InputSpec


class Torchvision(Family):
    """Whatever `torchvision.models` builds for these problems."""

    idea = (
        "classifiers, segmenters and two-stage detectors of torchvision, and its backbones for "
        "poses"
    )
    answers: ClassVar[frozenset[Answer]] = frozenset({"classes", "masks", "boxes", "joints"})
    forms: ClassVar = {
        "classes": "torchvision:<name>",
        "masks": "torchvision:<name>",
        "boxes": "torchvision:fasterrcnn_resnet50_fpn",
        "joints": "torchvision:resnet50",
    }

    def known(self, name: str, answer: Answer) -> str | None:
        """Itself, if torchvision lists it; of detectors it shows where one is built."""
        if answer == "boxes":
            return name or None
        return name if name in _names(answer) else None

    def alike(self, name: str, answer: Answer) -> list[str]:
        """Names that torchvision has."""
        if answer == "boxes":
            return []
        return [f"torchvision:{n}" for n in difflib.get_close_matches(name, _names(answer), n=4)]

    def input(self, name: str, answer: Answer) -> InputSpec | None:
        """From the transform that its weights come with."""
        return input_defaults.torchvision_input(name, answer)

    def build(self, name: str, answer: Answer, outputs: int, depth: int) -> nn.Module:
        """A classifier, a segmenter or a detector."""
        if answer == "boxes":
            return faster_rcnn(name, outputs, depth)
        if answer == "classes":
            return torchvision.torchvision_classifier(name, outputs)
        if depth != 3:
            raise BadInput(
                f"torchvision:{name} takes colour images alone; use smp:... for gray ones"
            )
        return torchvision.torchvision_segmenter(name, outputs)

    def head(self, name: str, network: nn.Module) -> str:
        """The last layer that has weights; of segmenters the one before the auxiliary head."""
        if name in torchvision.segmenter_names():
            return torchvision.torchvision_segmenter_head(name)
        return probe.last_weighted_layer(network)

    def cut(self, name: str, network: nn.Module) -> Parts:
        """The network cut before its head, in place."""
        return probe.cut_before(network, self.head(name, network))

    def segmenter_parts(self, name: str, network: nn.Module) -> SegParts:
        """Backbone, the classifier's first layers, and its last."""
        return torchvision.torchvision_segmenter_parts(network)

    def last_map(self, name: str) -> nn.Module:
        """A classifier up to its last map."""
        return torchvision.torchvision_map(name)


def _names(answer: Answer) -> list[str]:
    if answer == "masks":
        return torchvision.segmenter_names()
    return torchvision.classifier_names()


EXPORT = Torchvision
