"""The closed set of problems, which of them a network is for, and the network of a bundle."""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

import torch
from torch import nn

from sfda.errors import BadInput
from sfda.networks import detector
from sfda.problems.classification import network as classification
from sfda.problems.detection import network as detection
from sfda.problems.pose import network as pose
from sfda.problems.segmentation import network as segmentation
from sfda.refs import ModelSpec
from sfda.types import Images, Losses
from sfda.weights.bundle import read_verified
from sfda.weights.load import load_exactly

PROBLEMS = MappingProxyType(
    {
        "classification": classification,
        "segmentation": segmentation,
        "detection": detection,
        "pose": pose,
    }
)
NETWORKS: tuple[tuple[type[nn.Module], ModuleType], ...] = (
    (classification.Classifier, classification),
    (segmentation.Segmenter, segmentation),
    (detector.Detector, detection),
    (pose.PoseNet, pose),
)


def problem_of(network: nn.Module) -> Any:
    """The module with `loss` and `pseudo_labels` for this network; TypeError for a foreign one."""
    for kind, problem in NETWORKS:
        if isinstance(network, kind):
            return problem
    raise TypeError(f"{type(network).__name__} is the network of no problem in {sorted(PROBLEMS)}")


def read_bundle(folder: Path, *, sha256: str | None = None) -> tuple[Any, ModelSpec]:
    """The network of a bundle in eval mode, and its spec.

    Raises BadInput where a file is missing, was edited, or is not the model named by `sha256`.
    """
    tensors, spec = read_verified(folder, sha256=sha256)
    if spec.problem not in PROBLEMS:
        raise BadInput(f"{folder} is for {spec.problem}; known are {', '.join(sorted(PROBLEMS))}")
    with torch.random.fork_rng(devices=[]):  # a random start that is overwritten at once
        network = PROBLEMS[spec.problem].build_from_spec(spec)
    load_exactly(network, tensors)
    return network.eval(), spec


def answered_loss(network: nn.Module, images: Images, answers: Any) -> Losses:
    """The problem's supervised loss on what people answered: boxes that they drew join a
    detector's proposals, as is usual with those.
    """
    problem = problem_of(network)
    more = {"append": True} if problem is detection else {}
    found: Losses = problem.loss(network, images, answers, **more)
    return found
