"""Where two detectors differ: a box of one without partner in the other, at the deployed score."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from sfda.building_blocks.boxes import Boxes
from sfda.problems._change import NEITHER, NO, YES, Claim, ImageUnits, Unit
from sfda.problems._labels import Array
from sfda.problems.detection.inference import box_arrays
from sfda.problems.detection.metrics import BoxesOf, matched, overlaps
from sfda.refs import ModelSpec

DEPLOYED_SCORE = 0.5  # boxes scored lower are neither drawn nor count as answers
PARTNER_IOU = 0.5
ON_IT_IOU = 0.1  # boxes that overlap less are on another object
CLAIM = Claim(
    "yes or no", "boxes", None, f"a higher F1 of the boxes scored {DEPLOYED_SCORE:g} and above"
)
F1_BOUNDS = (0.0, 1.0)  # F1 of A is unknown: what is claimed must hold at both ends


def sure_of(boxes: BoxesOf) -> BoxesOf:
    """Those at or above the deployed score; of a person's boxes, which have none, all."""
    if boxes.scores is None:
        return boxes
    return boxes.where(boxes.scores >= DEPLOYED_SCORE)


def answers(output: tuple[int, Boxes], spec: ModelSpec) -> Iterator[tuple[int, BoxesOf]]:
    """(row, sure boxes) of one image."""
    row, boxes = output
    yield row, sure_of(box_arrays(boxes))


class LoneBox(NamedTuple):
    """A box without partner, and which model has it: 0 is A, 1 is B. They are sorted so."""

    label: int
    corners: tuple[float, ...]
    model: int


def lone_boxes(one: BoxesOf, other: BoxesOf) -> list[LoneBox]:
    """The sure boxes of both without partner: pairs are of one class, one to one, the largest IoU
    first and at least 0.5. With A and B swapped they are the same, in the same order.
    """
    sides = [_in_order(boxes) for boxes in (one, other)]
    first, second = (0, 1) if _key(sides[0]) <= _key(sides[1]) else (1, 0)
    iou = overlaps(sides[first].boxes, sides[second].boxes)
    iou[sides[first].labels[:, None] != sides[second].labels[None]] = 0
    pairs = matched(iou, PARTNER_IOU)
    partnered = {first: {pair[0] for pair in pairs}, second: {pair[1] for pair in pairs}}
    return sorted(
        LoneBox(int(label), tuple(map(float, box)), model)
        for model, side in enumerate(sides)
        for number, (box, label) in enumerate(zip(side.boxes, side.labels, strict=True))
        if number not in partnered[model]
    )


def _in_order(boxes: BoxesOf) -> BoxesOf:
    """Sure boxes by class and place, so that what is equal comes in the same order."""
    sure = sure_of(boxes)
    return sure.where(np.lexsort((*sure.boxes.T[::-1], sure.labels)))


def _key(side: BoxesOf) -> tuple[list[int], list[list[float]]]:
    return side.labels.tolist(), side.boxes.tolist()


def boxes_changed(one: BoxesOf, other: BoxesOf) -> float:
    """Share of the sure boxes of both without partner, 1 - 2 m / (n1 + n2) of m pairs; 0 where
    there are none.
    """
    total = len(sure_of(one).labels) + len(sure_of(other).labels)
    return len(lone_boxes(one, other)) / total if total else 0.0


def image_units(one: BoxesOf, other: BoxesOf, spec: ModelSpec, reach: float) -> ImageUnits:
    """The lone boxes by class and place; `place` is x, y, width and height."""
    lone = lone_boxes(one, other)
    classes = len(spec.classes)
    labels: Array = np.concatenate([sure_of(one).labels, sure_of(other).labels]).astype(np.int64)
    total = np.bincount(labels, minlength=classes)
    changed = np.bincount([box.label for box in lone], minlength=classes)
    by_class = {
        spec.classes[label]: (int(total[label]), int(changed[label]))
        for label in np.flatnonzero(total)
    }

    def unit(number: int) -> Unit:
        label, (x1, y1, x2, y2), model = lone[number]
        first, second = (NO, YES) if model else (YES, NO)
        beside = _beside(lone[number], (one, other)[model])
        spot = (x1, y1, x2 - x1, y2 - y1)
        return Unit(spot, spec.classes[label], first, second, beside=beside)

    return ImageUnits(len(labels), len(lone), by_class, unit)


def _beside(box: LoneBox, boxes: BoxesOf) -> tuple[tuple[float, ...], ...]:
    """The boxes (x, y, width, height) of its class and model that lie on a box and are surer."""
    sure = sure_of(boxes)
    same = sure.where(sure.labels == box.label)
    corners = np.array([box.corners])
    scores = np.zeros(len(same.labels)) if same.scores is None else same.scores
    own = int((same.boxes == corners).all(1).argmax())
    near = (overlaps(corners, same.boxes)[0] > ON_IT_IOU) & (scores > scores[own])
    return tuple(
        (x1, y1, x2 - x1, y2 - y1)
        for x1, y1, x2, y2 in sorted(map(tuple, same.boxes[near].tolist()))
    )


def x_of(unit: Unit, answer: str) -> tuple[float, ...] | None:
    """For F1 of A f = 0 and f = 1: of a box of B alone (2 - f) / 2 where it is right and -f / 2
    where not, of A alone the negatives; 0 where nobody can tell, None for what is no answer.
    """
    if answer in NEITHER:
        return (0.0,) * len(F1_BOUNDS)
    if answer not in (YES, NO):
        return None
    sign = 1 if unit.second == YES else -1
    return tuple(sign * ((2 - f) / 2 if answer == YES else -f / 2) for f in F1_BOUNDS)
