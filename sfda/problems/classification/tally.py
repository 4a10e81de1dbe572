"""What a classifier's answers add up to, and the images that the source model is surest of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from sfda.problems._tally import Tally
from sfda.problems.class_outputs import tally_classes
from sfda.problems.classification.network import ClassOutput
from sfda.refs import PredictionsRef


def tally(output: ClassOutput) -> Tally:
    """By image."""
    return tally_classes(output)


def surest_rows(ref: PredictionsRef, share: float) -> dict[int, int]:
    """Row -> class of the `share` of the images that the source model is surest of."""
    labels, sure = (_column(ref, name) for name in ("labels", "confidences"))
    count = round(len(sure) * share)
    rows = np.argsort(-sure, kind="stable")[:count]
    return dict(zip(rows.tolist(), labels[rows].tolist(), strict=True))


def answered(output: ClassOutput) -> list[int]:
    """The class of each image of a batch."""
    answers: list[int] = output.logits.argmax(1).tolist()
    return answers


def _column(ref: PredictionsRef, name: str) -> np.ndarray[Any, Any]:
    files = sorted(Path(ref.folder).glob(f"{name}-*.npy"))
    return np.concatenate([np.load(file, allow_pickle=False) for file in files])
