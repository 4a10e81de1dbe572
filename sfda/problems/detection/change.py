"""Where two detectors differ: a box of one without partner in the other, at the deployed score."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
from jaxtyping import Float, Int

from sfda.building_blocks.boxes import Boxes
from sfda.measures.change import NEITHER, NO, YES, Claim, ImageUnits, Unit
from sfda.measures.opinions import Backing, Counts, MemberWeights, Opinions, PoolSize
from sfda.networks.detector import DetOutput
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


@dataclass(frozen=True, eq=False)
class BoxOpinions(Opinions):
    """The boxes at the deployed score or above, image by image.

    The consensus of an image are the boxes that more than half of the members have: from the surest
    on, one box of every member that overlaps it best, by an IoU of at least 0.5 and with its class;
    the place is the mean, weighed by score. The agreement of a model with it is, by class,
    2 pairs / (n_one + n_other), of pairs one to one with an IoU of at least 0.5.
    """

    boxes: tuple[BoxesOf, ...]
    classes: int

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """Along the images."""
        every = tuple(boxes for part in parts for boxes in part.boxes)
        return cls(every, parts[0].classes)

    def common(self, others: Sequence[Self], weights: MemberWeights) -> tuple[BoxesOf, ...]:
        """Image by image; all members weigh the same."""
        members = (self, *others)
        return tuple(consensus_of(one) for one in zip(*(m.boxes for m in members), strict=True))

    def matched(self, common: tuple[BoxesOf, ...]) -> Counts:
        """By class."""
        seen, same = np.zeros((2, len(common), self.classes))
        for row, (own, agreed) in enumerate(zip(self.boxes, common, strict=True)):
            labels: Int[np.ndarray, " n"] = np.concatenate([own.labels, agreed.labels])
            seen[row] = np.bincount(labels.astype(np.int64), minlength=self.classes) / 2
            for one, _ in pairs_of(own, agreed):
                same[row, int(own.labels[one])] += 1
        return Counts(seen, same)

    def backed(self, other: Self, third: Self) -> Backing:
        """Of boxes without partner in the other model: that a third has it speaks for it, that it
        has none for the model without.
        """
        first, second = np.zeros((2, len(self.boxes)))
        for row, (a, b, judge) in enumerate(zip(self.boxes, other.boxes, third.boxes, strict=True)):
            pairs = pairs_of(a, b)
            for side, taken, own, theirs in (
                (a, {one for one, _ in pairs}, first, second),
                (b, {two for _, two in pairs}, second, first),
            ):
                lone = np.array([n not in taken for n in range(len(side.labels))], bool)
                count = int(lone.sum())
                matches = len(pairs_of(side.where(lone), judge)) if count else 0
                own[row] += matches
                theirs[row] += count - matches
        return Backing(first, second)

    def same_as(self, other: Self) -> bool:
        """Whether all boxes are the same."""
        return all(
            np.array_equal(a.boxes, b.boxes) and np.array_equal(a.labels, b.labels)
            for a, b in zip(self.boxes, other.boxes, strict=True)
        )


def pairs_of(one: BoxesOf, other: BoxesOf) -> list[tuple[int, int]]:
    """Pairs of one class, one to one, the largest IoU first and at least 0.5."""
    iou = overlaps(one.boxes, other.boxes)
    iou[one.labels[:, None] != other.labels[None]] = 0
    return [(int(a), int(b)) for a, b in matched(iou, PARTNER_IOU)]


class _Box(NamedTuple):
    """A box of a member; they are sorted so, the surest first."""

    less: float  # its score, negative
    label: int
    corners: tuple[float, ...]
    member: int


def consensus_of(members: Sequence[BoxesOf]) -> BoxesOf:
    """What more than half of the members have, of one image."""
    free = sorted(
        _Box(-float(score), int(label), tuple(map(float, corners)), number)
        for number, boxes in enumerate(members)
        for corners, label, score in zip(boxes.boxes, boxes.labels, _scores_of(boxes), strict=True)
    )
    agreed: list[tuple[Float[np.ndarray, " 4"], int, float]] = []
    while free:
        group = _group_of(free)
        free = [box for box in free if box not in group]
        if 2 * len(group) > len(members):
            scores = np.array([-box.less for box in group])
            corners = np.average([box.corners for box in group], axis=0, weights=scores + 1e-9)
            agreed.append((corners, group[0].label, float(scores.mean())))
    return BoxesOf(
        np.array([corners for corners, _, _ in agreed]).reshape(-1, 4),
        np.array([label for _, label, _ in agreed], np.int64),
        np.array([score for _, _, score in agreed]),
    )


def _group_of(free: Sequence[_Box]) -> list[_Box]:
    """The first box, and of every other member the one of its class that overlaps it best."""
    first = free[0]
    iou = overlaps(np.array([first.corners]), np.array([box.corners for box in free]))[0]
    best: dict[int, tuple[float, _Box]] = {first.member: (2.0, first)}
    for box, overlap in zip(free, iou.tolist(), strict=True):
        if box.label != first.label or overlap < PARTNER_IOU:
            continue
        if overlap > best.get(box.member, (0.0, first))[0]:
            best[box.member] = (overlap, box)
    return [box for _, box in best.values()]


def _scores_of(boxes: BoxesOf) -> Float[np.ndarray, " n"]:
    assert boxes.scores is not None  # as a model's boxes have
    return boxes.scores


def opinions(output: DetOutput, rows: Sequence[int], pool: PoolSize) -> BoxOpinions:
    """The sure boxes of each image."""
    sure = tuple(sure_of(box_arrays(type(b)(*(p.cpu() for p in b)))) for b in output.boxes)
    return BoxOpinions(sure, pool.classes)
