"""The network of an arch or of a spec, whole and cut; everything here has random weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from sfda.networks import probe
from sfda.networks.detector import Detector, as_detector
from sfda.networks.families._base import Answer
from sfda.networks.foreign import build as foreign
from sfda.networks.grammar import family, is_foreign, parse
from sfda.networks.probe import Parts, SegParts
from sfda.refs import InputSpec, ModelSpec
from sfda.weights.load import with_prefix_of


def network_input(arch: str, answer: Answer) -> InputSpec | None:
    """How a network wants its images; None where its library states nothing. Raises BadInput."""
    if is_foreign(arch):
        return None
    library, name = parse(arch, answer)
    return family(library).input(name, answer)


def native_network(spec: ModelSpec, outputs: int, answer: Answer) -> nn.Module:
    """The whole network of a spec, under the names of its library. Raises BadInput."""
    if spec.code is not None:
        return foreign.build_foreign(spec, outputs, answer)
    library, name = parse(spec.arch, answer)
    return family(library).build(name, answer, outputs, spec.input.depth)


def head_path(spec: ModelSpec, network: nn.Module, answer: Answer) -> str:
    """Path of the layer that gives a native network's logits, such as `fc` or `classifier.6`."""
    if spec.cut:
        return spec.cut[-1]
    library, name = parse(spec.arch, answer)
    return family(library).head(name, network)


def cut_classifier(spec: ModelSpec, network: nn.Module) -> Parts:
    """A native classifier cut before its last layer, in place."""
    if spec.cut:
        return probe.cut_layer(network, spec.cut[-1])
    library, name = parse(spec.arch, "classes")
    return family(library).cut(name, network)


def cut_map(spec: ModelSpec, network: nn.Module) -> SegParts:
    """A native network of maps in three parts: its own modules, nothing added."""
    if spec.cut:
        return probe.map_parts(network, spec.cut)
    library, name = parse(spec.arch, "masks")
    return family(library).segmenter_parts(name, network)


def names_fit(spec: ModelSpec, outputs: int, answer: Answer, weights: Mapping[str, Any]) -> bool:
    """Whether weights carry the names of the whole native network, and not those of its parts."""
    expected = native_network(spec, outputs, answer).state_dict()
    return set(expected) == set(with_prefix_of(weights, expected))


def stored_config(arch: str, classes: int) -> tuple[str, dict[str, Any] | None]:
    """What a detector's model stores: its arch, and of some libraries a configuration."""
    library, name = parse(arch, "boxes")
    name, config = family(library).stored_config(name, classes)
    return f"{library}:{name}", config


def detector(
    arch: str, classes: int, depth: int = 3, *, config: Mapping[str, Any] | None = None
) -> Detector:
    """The detector of a name, or, of a library that stores those, of a configuration."""
    library, name = parse(arch, "boxes")
    made = family(library).from_config(config or {}, classes, depth)
    network = made or family(library).build(name, "boxes", classes, depth)
    return as_detector(network, arch)


def heatmap_parts(arch: str, joints: int) -> SegParts:
    """The parts of a library's network that gives heatmaps itself."""
    library, name = parse(arch, "joints")
    network = family(library).build(name, "joints", joints, 3)
    return family(library).segmenter_parts(name, network)


def pose_backbone(arch: str) -> nn.Module | None:
    """The part that gives the last map of features; None where a network gives heatmaps itself."""
    library, name = parse(arch, "joints")
    return family(library).last_map(name)
