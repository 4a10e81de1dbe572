"""COCO's average precision by pycocotools, for boxes and for keypoints."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

Column = np.ndarray[Any, Any]  # [M], a value a box


def coco_precision(
    truth: dict[str, Any],
    predictions: list[dict[str, Any]],
    kind: Literal["bbox", "keypoints"],
    *,
    categories: Sequence[int] | None = None,
    sigmas: Sequence[float] | None = None,
) -> np.ndarray[Any, Any]:
    """Precision [IoU or OKS, recall, class, area, most predictions], -1 where there is no truth.

    `truth` is a document and `predictions` are result rows as COCO writes them; every size counts.
    """
    with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does
        evaluation = _evaluation(truth, predictions, kind, categories, sigmas)
        evaluation.accumulate()
    precision: np.ndarray[Any, Any] = evaluation.eval["precision"]
    return precision


def coco_matches(
    truth: dict[str, Any], predictions: list[dict[str, Any]], categories: Sequence[int]
) -> Iterator[tuple[int, tuple[Column, Column, Column]]]:
    """For each class the scores of its predicted boxes, whether each is right at an IoU of 0.5, and
    the image that it is in; image by image, and without those that lie in what is to be ignored.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = _evaluation(truth, predictions, "bbox", categories, None)
    images, most = evaluation.params.imgIds, evaluation.params.maxDets[-1]
    for number, category in enumerate(evaluation.params.catIds):
        scores, right, image = [], [], []
        for at, name in enumerate(images):
            one = evaluation.evalImgs[number * len(images) + at]
            if one is None:
                continue
            counted = ~one["dtIgnore"][0, :most].astype(bool)
            scores.append(np.asarray(one["dtScores"][:most])[counted])
            right.append((one["dtMatches"][0, :most] > 0)[counted])
            image.append(np.full(int(counted.sum()), name, np.int64))
        columns = [np.concatenate([*part, np.zeros(0)]) for part in (scores, right, image)]
        yield int(category), (columns[0], columns[1] > 0, columns[2].astype(np.int64))


def _evaluation(
    truth: dict[str, Any],
    predictions: list[dict[str, Any]],
    kind: Literal["bbox", "keypoints"],
    categories: Sequence[int] | None,
    sigmas: Sequence[float] | None,
) -> COCOeval:
    """The evaluation after it has matched."""
    document = COCO()
    document.dataset = truth
    document.createIndex()
    evaluation = COCOeval(document, document.loadRes(predictions), kind)
    if categories is not None:
        evaluation.params.catIds = [int(c) for c in categories]
    if sigmas is not None:
        evaluation.params.kpt_oks_sigmas = np.array(sigmas)
    evaluation.params.areaRng = [[0, 1e10]]
    evaluation.params.areaRngLbl = ["all"]
    evaluation.evaluate()
    return evaluation
