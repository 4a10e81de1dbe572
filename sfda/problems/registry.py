"""The closed set of problems, and which of them a network is for."""

from __future__ import annotations

from types import MappingProxyType, ModuleType
from typing import Any

from torch import nn

from sfda.problems.classification import network as classification
from sfda.problems.detection import network as detection
from sfda.problems.pose import network as pose
from sfda.problems.segmentation import network as segmentation
from sfda.types import Images, Losses

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
    (detection.Detector, detection),
    (pose.PoseNet, pose),
)


def problem_of(network: nn.Module) -> Any:
    """The module with `loss` and `pseudo_labels` for this network; TypeError for a foreign one."""
    for kind, problem in NETWORKS:
        if isinstance(network, kind):
            return problem
    raise TypeError(f"{type(network).__name__} is the network of no problem in {sorted(PROBLEMS)}")


def answered_loss(network: nn.Module, images: Images, answers: Any) -> Losses:
    """The problem's supervised loss on what people answered: boxes that they drew join a
    detector's proposals, as is usual with those.
    """
    problem = problem_of(network)
    more = {"append": True} if problem is detection else {}
    found: Losses = problem.loss(network, images, answers, **more)
    return found
