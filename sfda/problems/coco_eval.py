"""COCO's average precision by pycocotools, for boxes and for keypoints."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval


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
        evaluation.accumulate()
    precision: np.ndarray[Any, Any] = evaluation.eval["precision"]
    return precision
