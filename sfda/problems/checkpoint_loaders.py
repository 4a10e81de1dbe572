"""Weights trained elsewhere, as networks of ours or as their backbones, by problem."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from torch import nn

from sfda.problems.classification.weights import load_backbone, load_classifier
from sfda.problems.detection.weights import load_detector, load_detector_backbone
from sfda.problems.pose.weights import load_pose, load_pose_backbone
from sfda.problems.segmentation.weights import load_encoder, load_segmenter
from sfda.refs import ModelSpec

NETWORK_LOADERS: Mapping[str, Callable[..., tuple[nn.Module, ModelSpec]]] = MappingProxyType(
    {
        "classification": load_classifier,
        "segmentation": load_segmenter,
        "detection": load_detector,
        "pose": load_pose,
    }
)


BACKBONE_LOADERS: Mapping[str, Callable[..., None]] = MappingProxyType(
    {
        "classification": load_backbone,
        "segmentation": load_encoder,
        "detection": load_detector_backbone,
        "pose": load_pose_backbone,
    }
)
