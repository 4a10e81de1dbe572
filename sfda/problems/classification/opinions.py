"""What a classifier says of images, kept to be compared with other models."""

from __future__ import annotations

from collections.abc import Sequence

from sfda.problems._opinions import ClassOpinions, PoolSize
from sfda.problems.classification.network import ClassOutput


def opinions(output: ClassOutput, rows: Sequence[int], pool: PoolSize) -> ClassOpinions:
    """The class distribution of each image."""
    return ClassOpinions.of_rows(output.logits[:, None])
