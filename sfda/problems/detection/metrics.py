"""Metrics of boxes with labels: COCO's through pycocotools, and Pascal VOC's two, named apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from sfda.problems._labels import Array
from sfda.problems.coco_eval import coco_precision
from sfda.refs import Metrics

FROM_ONE = np.array([1.0, 1.0, 0.0, 0.0])


class BoxesOf(NamedTuple):
    """Boxes [n, 4] of one image as x1, y1, x2, y2 in its pixels, with classes [n].

    `scores` are those of predictions; `crowd` marks boxes of the truth that are to be ignored:
    COCO's crowds, VOC's difficult objects.
    """

    boxes: Array
    labels: Array
    scores: Array | None = None
    crowd: Array | None = None

    def where(self, chosen: Array) -> BoxesOf:
        """Those that are chosen, in order."""
        scores, crowd = (None if p is None else p[chosen] for p in (self.scores, self.crowd))
        return BoxesOf(self.boxes[chosen], self.labels[chosen], scores, crowd)


class DetectionMetric:
    """Average precision over a set, fed image by image.

    Only classes in `counted` matter (None: all): predictions of others are neither right nor wrong.
    """

    def __init__(self, classes: Sequence[str], *, counted: Sequence[int] | None = None) -> None:
        self.classes = tuple(classes)
        # in order, as pycocotools gives its figures
        self.counted = tuple(range(len(classes)) if counted is None else sorted(set(counted)))
        self.truth: list[BoxesOf] = []
        self.predictions: list[BoxesOf] = []
        self._by_class: dict[str, dict[str, float]] = {}  # of all that was taken in, or nothing

    def update(self, prediction: BoxesOf, truth: BoxesOf) -> None:
        """Take in one image."""
        assert prediction.scores is not None
        self.predictions.append(prediction.where(np.isin(prediction.labels, self.counted)))
        self.truth.append(truth.where(np.isin(truth.labels, self.counted)))
        self._by_class = {}

    @property
    def count(self) -> int:
        """Images taken in."""
        return len(self.truth)

    def compute(self) -> Metrics:
        """`coco_ap` (IoU 0.5 to 0.95), `coco_ap50`, `coco_ap75`; `voc07_ap50` (11 points) and
        `voc_ap50_area`, both IoU above 0.5 with VOC's inclusive pixels; ValueError without images.

        In [0, 1], means over the classes that occur in the truth; `voc07_ap50` over all that are
        counted, 0 for those that do not occur, as in the papers. Without a box in the truth all
        are 0.
        """
        if not self.count:
            raise ValueError("metrics of no images")
        every = list(self.by_class().values())
        rows = [row for row in every if row["boxes"]] or every
        metrics = {
            kind: float(np.mean([row[kind] for row in rows]))
            for kind in ("coco_ap", "coco_ap50", "coco_ap75", "voc_ap50_area")
        }
        return metrics | {"voc07_ap50": float(np.mean([row["voc07_ap50"] for row in every]))}

    def per_class(self) -> dict[str, dict[str, float]]:
        """For every class that occurs `ap50`, `ap` and `boxes`; for the others `boxes` 0 alone."""
        return {
            name: {"ap50": row["coco_ap50"], "ap": row["coco_ap"], "boxes": row["boxes"]}
            if row["boxes"]
            else {"boxes": 0.0}
            for name, row in self.by_class().items()
        }

    def by_class(self) -> dict[str, dict[str, float]]:
        """All five of every counted class, and its number of `boxes`."""
        self._by_class = self._by_class or self._figures()
        return self._by_class

    def _figures(self) -> dict[str, dict[str, float]]:
        coco = coco_by_class(self.predictions, self.truth, self.counted)
        rows = {}
        for label, row in zip(self.counted, coco, strict=True):
            boxes = sum(int(((t.labels == label) & ~_crowd(t)).sum()) for t in self.truth)
            voc07, area = (
                voc_ap(self.predictions, self.truth, label, interpolation=how)
                for how in ("11points", "area")
            )
            rows[self.classes[label]] = {
                "coco_ap": row[0],
                "coco_ap50": row[1],
                "coco_ap75": row[2],
                "voc07_ap50": voc07,
                "voc_ap50_area": area,
                "boxes": float(boxes),
            }
        return rows

    def confusion(self, *, above: float = 0.5, iou: float = 0.5) -> list[list[int]]:
        """Boxes by class, rows truth and columns prediction, the last of both for "background".

        Predictions scored at least `above` are matched to the truth one to one, the largest IoU
        first and at least `iou`; what is left over is missed, or invented.
        """
        size = len(self.classes) + 1
        table = np.zeros((size, size), np.int64)
        for prediction, truth in zip(self.predictions, self.truth, strict=True):
            single = ~_crowd(truth)
            true_boxes, labels = truth.boxes[single], truth.labels[single]
            assert prediction.scores is not None
            sure = prediction.scores >= above
            predicted = prediction.labels[sure]
            pairs = matched(overlaps(prediction.boxes[sure], true_boxes), iou)
            for a, t in pairs:
                table[labels[t], predicted[a]] += 1
            for t in set(range(len(labels))) - {t for _, t in pairs}:
                table[labels[t], -1] += 1
            for a in set(range(len(predicted))) - {a for a, _ in pairs}:
                table[-1, predicted[a]] += 1
        return [[int(v) for v in row] for row in table]


def _crowd(truth: BoxesOf) -> Array:
    return np.zeros(len(truth.labels), bool) if truth.crowd is None else truth.crowd.astype(bool)


def overlaps(
    one: Float[np.ndarray, "n 4"], other: Float[np.ndarray, "m 4"], *, inclusive: bool = False
) -> Float[np.ndarray, "n m"]:
    """Intersection over union of all pairs; `inclusive` counts sides as VOC does, x2 - x1 + 1."""
    more = 1.0 if inclusive else 0.0
    one, other = one.astype(np.float64), other.astype(np.float64)
    low = np.maximum(one[:, None, :2], other[None, :, :2])
    high = np.minimum(one[:, None, 2:], other[None, :, 2:])
    both = np.clip(high - low + more, 0, None).prod(-1)
    areas = [(b[:, 2:] - b[:, :2] + more).prod(1) for b in (one, other)]
    whole = areas[0][:, None] + areas[1][None] - both
    iou: Float[np.ndarray, "n m"]
    iou = np.divide(both, whole, out=np.zeros_like(both), where=whole > 0)
    return iou


def matched(iou: Float[np.ndarray, "n m"], least: float) -> list[tuple[int, int]]:
    """Pairs one to one, the largest overlap first, of at least `least`."""
    pairs = []
    left = iou.copy()
    while left.size and left.max() >= least:
        row, column = np.unravel_index(int(left.argmax()), left.shape)
        pairs.append((int(row), int(column)))
        left[row, :] = left[:, column] = -1
    return pairs


def coco_by_class(
    predictions: Sequence[BoxesOf], truth: Sequence[BoxesOf], classes: Sequence[int]
) -> list[tuple[float, float, float]]:
    """COCO's AP, AP50 and AP75 of each class by pycocotools, with at most 100 predictions an image.

    0 for a class without a box in the truth.
    """
    rows = coco_predictions(predictions)
    if not rows:
        return [(0.0, 0.0, 0.0)] * len(classes)
    document = coco_truth(truth, classes)
    precision = coco_precision(document, rows, "bbox", categories=classes)[:, :, :, 0, -1]
    by_class = []
    for k in range(len(classes)):
        curves = precision[..., k]
        parts = (curves, curves[:1], curves[5:6])
        by_class.append(tuple(float(p.mean()) if (p > -1).all() else 0.0 for p in parts))
    return by_class  # type: ignore[return-value]


def coco_truth(truth: Sequence[BoxesOf], classes: Sequence[int]) -> dict[str, Any]:
    """Boxes of the truth as a document of COCO's; images are numbered from 0."""
    annotations: list[dict[str, Any]] = []
    for image, drawn in enumerate(truth):
        for box, label, crowd in zip(drawn.boxes, drawn.labels, _crowd(drawn), strict=True):
            x1, y1, x2, y2 = map(float, box)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": int(label),
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "iscrowd": int(crowd),
                }
            )
    return {
        "info": {},
        "images": [{"id": i} for i in range(len(truth))],
        "categories": [{"id": int(c)} for c in classes],
        "annotations": annotations,
    }


def coco_predictions(predictions: Sequence[BoxesOf]) -> list[dict[str, Any]]:
    """Predicted boxes as rows of COCO's results."""
    rows = []
    for image, boxes in enumerate(predictions):
        assert boxes.scores is not None
        for box, label, score in zip(boxes.boxes, boxes.labels, boxes.scores, strict=True):
            x1, y1, x2, y2 = map(float, box)
            rows.append(
                {
                    "image_id": image,
                    "category_id": int(label),
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "score": float(score),
                }
            )
    return rows


def voc_ap(
    predictions: Sequence[BoxesOf],
    truth: Sequence[BoxesOf],
    label: int,
    *,
    interpolation: Literal["11points", "area"],
    iou: float = 0.5,
) -> float:
    """Pascal VOC's AP of one class, 0 without a box of it that counts.

    A prediction, the surest first, is right where the box of the truth that it overlaps most has an
    IoU above `iou` and is not taken; where that box is to be ignored, so is the prediction. Corners
    become pixels counted from 1, the last included: x1 and y1 plus 1. As in the evaluators that
    LPLD was released with, scores of predictions are rounded to 3 decimals and their corners to 1.
    """
    boxes = [t.boxes[t.labels == label] + FROM_ONE for t in truth]
    ignored = [_crowd(t)[t.labels == label] for t in truth]
    total = int(sum((~part).sum() for part in ignored))
    if not total:
        return 0.0
    rows = [
        (round(float(score), 3), image, np.round(box.astype(np.float64) + FROM_ONE, 1))
        for image, boxes_of in enumerate(predictions)
        for box, score in zip(
            boxes_of.boxes[boxes_of.labels == label],
            _scores(boxes_of)[boxes_of.labels == label],
            strict=True,
        )
    ]
    order = np.argsort([-score for score, _, _ in rows], kind="stable")
    taken = [np.zeros(len(part), bool) for part in boxes]
    right, wrong = [], []
    for position in order:
        _, image, box = rows[position]
        iou_of = overlaps(box[None], boxes[image], inclusive=True)[0]
        best = int(iou_of.argmax()) if len(iou_of) else -1
        if best < 0 or iou_of[best] <= iou:
            hit = False
        elif ignored[image][best]:
            continue
        else:
            hit = not taken[image][best]
            taken[image][best] = True
        right.append(hit)
        wrong.append(not hit)
    hits, misses = np.cumsum(right), np.cumsum(wrong)
    recall = hits / total
    precision = hits / np.maximum(hits + misses, 1e-12)
    return _interpolated(recall, precision, interpolation)


def _scores(boxes: BoxesOf) -> Array:
    assert boxes.scores is not None
    return boxes.scores


def _interpolated(recall: Array, precision: Array, how: str) -> float:
    """The area below the curve: at recalls 0, 0.1 to 1 (VOC 2007), or the exact one (later)."""
    if how == "11points":
        points = [precision[recall >= t] for t in np.arange(0.0, 1.1, 0.1)]
        return float(sum(part.max() if len(part) else 0.0 for part in points) / 11)
    recall = np.concatenate(([0.0], recall, [1.0]))
    precision = np.concatenate(([0.0], precision, [0.0]))
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    steps = np.flatnonzero(recall[1:] != recall[:-1])
    return float(((recall[steps + 1] - recall[steps]) * precision[steps + 1]).sum())
