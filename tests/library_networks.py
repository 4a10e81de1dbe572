"""Networks of libraries by name, with random weights: whole as their library has them, and cut."""

from __future__ import annotations

from typing import Any

from torch import nn

from sfda.networks import registry
from sfda.problems.classification import network as classification
from sfda.problems.classification.network import Classifier
from sfda.problems.registry import PROBLEMS
from sfda.problems.segmentation import network as segmentation
from sfda.problems.segmentation.network import Segmenter
from sfda.refs import InputSpec, ModelSpec, Views


def classifier(arch: str, classes: int, **parts: Any) -> Classifier:
    """A classifier of so many classes; `parts` are those of `make_spec`."""
    names, seen = named(classes), input_of("classification", arch, 3)
    return classification.build_from_spec(
        classification.make_spec(arch, names, input=seen, **parts)
    )


def segmenter(arch: str, classes: int, *, channels: int = 3, **parts: Any) -> Segmenter:
    """A segmenter of so many classes, for images of so many channels."""
    names, seen = named(classes), input_of("segmentation", arch, channels)
    return segmentation.build_from_spec(segmentation.make_spec(arch, names, input=seen, **parts))


def native(problem: str, arch: str, outputs: int) -> nn.Module:
    """The whole network, under the names of its library."""
    spec = library_spec(problem, arch, outputs)
    return registry.native_network(spec, outputs, PROBLEMS[problem].answer)


def cut_classifier(arch: str, network: nn.Module, classes: int) -> Classifier:
    """A native network cut before its last layer, with nothing added."""
    spec = library_spec("classification", arch, classes)
    return classification.from_parts(registry.cut_classifier(spec, network), classes)


def cut_segmenter(arch: str, network: nn.Module, classes: int) -> Segmenter:
    """A native network in three parts, with nothing added."""
    spec = library_spec("segmentation", arch, classes)
    return segmentation.from_parts(registry.cut_map(spec, network), classes)


def library_spec(problem: str, arch: str, outputs: int) -> ModelSpec:
    """A spec that names a network and its outputs, whatever the problem may ask of those."""
    return ModelSpec(
        problem=problem,
        arch=arch,
        classes=named(outputs),
        input=input_of(problem, arch, 3),
        views=Views(),
        head="plain",
    )


def input_of(problem: str, arch: str, channels: int) -> InputSpec:
    """What the network states of its input; where it states nothing, or of other `channels`, one
    of 64 pixels.
    """
    stated = PROBLEMS[problem].defaults(arch)[0]
    if stated and channels == 3:
        return stated
    half = (0.5,) * channels
    return InputSpec(
        size=(64, 64), channels="gray" if channels == 1 else "rgb", mean=half, std=half
    )


def named(count: int) -> tuple[str, ...]:
    """So many classes."""
    return tuple(f"class-{number}" for number in range(count))
