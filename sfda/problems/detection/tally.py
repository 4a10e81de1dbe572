"""What a detector's boxes add up to."""

from __future__ import annotations

import torch

from sfda.networks.detector import DetOutput
from sfda.problems._tally import Tally


def tally(output: DetOutput) -> Tally:
    """By box, whatever its score, as the profile of the source model counts them."""
    labels = torch.cat([boxes.labels for boxes in output.boxes])
    scores = torch.cat([boxes.scores for boxes in output.boxes]).double()
    classes = output.logits.shape[-1] - 1 if output.logits.ndim else 0
    most = max(classes, int(labels.max()) + 1 if len(labels) else 0)
    mass = scores.new_zeros(most).index_add_(0, labels, scores)
    count = float(len(labels))
    return Tally(len(output.boxes), mass, labels.bincount(minlength=most).double(), count, count)
