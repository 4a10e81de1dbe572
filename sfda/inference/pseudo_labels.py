"""What the source model says of a target, kept for all that follows: the pseudo-labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch import nn

from sfda.inference.detection import keep_predicted_boxes
from sfda.inference.over_split import SplitInference
from sfda.inference.pose import keep_predicted_poses
from sfda.inference.predictions import keep_predictions
from sfda.inference.segmentation import keep_predicted_masks
from sfda.refs import ModelSpec, PredictionsRef

KEEPERS: Mapping[str, Callable[..., PredictionsRef]] = MappingProxyType(
    {
        "segmentation": keep_predicted_masks,
        "detection": keep_predicted_boxes,
        "pose": keep_predicted_poses,
    }
)


def keep_pseudo_labels(
    infer: SplitInference,
    network: nn.Module,
    spec: ModelSpec,
    folder: Path,
    *,
    size: int,
    source_sha256: str,
) -> PredictionsRef:
    """Keep the network's outputs for all `size` images below `folder`, as its problem does.

    Of a classifier also the features; of the others masks, boxes or joints.
    """
    whole: dict[str, Any] = {"size": size, "source_sha256": source_sha256}
    if spec.problem == "classification":
        return keep_predictions(lambda n, _=None: infer(n), network, spec, folder, **whole)
    return KEEPERS[spec.problem](infer(network), spec, folder, **whole)
