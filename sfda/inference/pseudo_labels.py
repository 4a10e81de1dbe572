"""What the source model says of a target, kept for all that follows: the pseudo-labels."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from sfda.inference.predictions import put_predictions, start_predictions
from sfda.problems._outputs import SplitInference
from sfda.problems.registry import PROBLEMS
from sfda.refs import ModelSpec, PredictionsRef


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

    The folder appears when it is complete.
    """
    part = start_predictions(folder)
    profile = PROBLEMS[spec.problem].keep_outputs(infer(network), spec, part, size)
    return put_predictions(part, folder, profile, size=size, source_sha256=source_sha256)
