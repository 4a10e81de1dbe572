"""Predicted boxes ranked by class, each right or wrong, as COCO's AP50 counts them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sfda.problems._resampled import RankedBoxes
from sfda.problems.coco_eval import coco_matches
from sfda.problems.detection.metrics import BoxesOf, coco_predictions, coco_truth


def ranked_by_class(
    predictions: Sequence[BoxesOf], truth: Sequence[BoxesOf], classes: Sequence[int]
) -> list[RankedBoxes]:
    """Predictions of each class, the surest first; those that lie in what is to be ignored are
    left out.
    """
    rows = coco_predictions(predictions)
    counts = {c: np.zeros(len(truth), np.int64) for c in classes}
    for number, drawn in enumerate(truth):
        crowd = np.zeros(len(drawn.labels), bool) if drawn.crowd is None else drawn.crowd > 0
        for label in drawn.labels[~crowd].tolist():
            counts[label][number] += 1
    if not rows:
        none = np.zeros(0, np.int64)
        return [RankedBoxes(none > 0, none, counts[c]) for c in classes]
    ranked = []
    for label, (scores, right, image) in coco_matches(coco_truth(truth, classes), rows, classes):
        order = np.argsort(-scores, kind="mergesort")  # as pycocotools sorts
        ranked.append(RankedBoxes(right[order], image[order], counts[label]))
    return ranked
