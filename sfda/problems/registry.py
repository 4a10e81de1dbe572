"""The closed set of problems, which of them a network is for, and the network of a bundle."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from sfda.errors import BadInput
from sfda.networks.detector import Detector
from sfda.problems.classification import loss as classification_loss
from sfda.problems.classification import network as classification
from sfda.problems.detection import loss as detection_loss
from sfda.problems.detection import network as detection
from sfda.problems.pose import loss as pose_loss
from sfda.problems.pose import network as pose
from sfda.problems.segmentation import loss as segmentation_loss
from sfda.problems.segmentation import network as segmentation
from sfda.refs import InputSpec, ModelSpec, Views
from sfda.types import Images, Losses
from sfda.weights.bundle import read_verified
from sfda.weights.load import load_exactly
from sfda.weights.size_limits import bounded_build


@dataclass(frozen=True)
class ProblemFunctions:
    """What the rest of the library calls of a problem, whichever it is."""

    network: type[nn.Module]
    defaults: Callable[[str], tuple[InputSpec | None, Views]]
    make_spec: Callable[..., ModelSpec]
    build_from_spec: Callable[[ModelSpec], Any]
    loss: Callable[..., Losses]
    pseudo_labels: Callable[..., Any]


PROBLEMS = MappingProxyType(
    {
        "classification": ProblemFunctions(
            classification.Classifier,
            classification.defaults,
            classification.make_spec,
            classification.build_from_spec,
            classification_loss.loss,
            classification_loss.pseudo_labels,
        ),
        "segmentation": ProblemFunctions(
            segmentation.Segmenter,
            segmentation.defaults,
            segmentation.make_spec,
            segmentation.build_from_spec,
            segmentation_loss.loss,
            segmentation_loss.pseudo_labels,
        ),
        "detection": ProblemFunctions(
            Detector,
            detection.defaults,
            detection.make_spec,
            detection.build_from_spec,
            detection_loss.loss,
            detection_loss.pseudo_labels,
        ),
        "pose": ProblemFunctions(
            pose.PoseNet,
            pose.defaults,
            pose.make_spec,
            pose.build_from_spec,
            pose_loss.loss,
            pose_loss.pseudo_labels,
        ),
    }
)


def problem_of(network: nn.Module) -> ProblemFunctions:
    """The functions of the problem that a network is for; TypeError for a foreign one."""
    for problem in PROBLEMS.values():
        if isinstance(network, problem.network):
            return problem
    raise TypeError(f"{type(network).__name__} is the network of no problem in {sorted(PROBLEMS)}")


def read_bundle(folder: Path, *, sha256: str | None = None) -> tuple[Any, ModelSpec]:
    """The network of a bundle in eval mode, and its spec.

    Raises BadInput where a file is missing, was edited, or is not the model named by `sha256`, and
    where the spec asks for more than its weights can fill.
    """
    tensors, spec = read_verified(folder, sha256=sha256)
    if spec.problem not in PROBLEMS:
        raise BadInput(f"{folder} is for {spec.problem}; known are {', '.join(sorted(PROBLEMS))}")
    # a random start that is overwritten at once
    with torch.random.fork_rng(devices=[]), bounded_build(tensors, spec.arch):
        network = PROBLEMS[spec.problem].build_from_spec(spec)
    load_exactly(network, tensors)
    return network.eval(), spec


def annotated_loss(network: nn.Module, images: Images, annotations: Any) -> Losses:
    """The problem's supervised loss on what people annotated: boxes that they drew join a
    detector's proposals, as is usual with those.
    """
    problem = problem_of(network)
    if isinstance(network, Detector):
        return problem.loss(network, images, annotations, append=True)
    return problem.loss(network, images, annotations)
