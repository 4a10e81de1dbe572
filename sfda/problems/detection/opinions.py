"""What a detector says of images, kept to be compared with other models: its sure boxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
from jaxtyping import Float, Int

from sfda.networks.detector import DetOutput
from sfda.problems._opinions import Backing, Counts, Opinions, PoolSize, Weights
from sfda.problems.detection.change import PARTNER_IOU, sure_of
from sfda.problems.detection.inference import box_arrays
from sfda.problems.detection.metrics import BoxesOf, matched, overlaps


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

    def common(self, others: Sequence[Self], weights: Weights) -> tuple[BoxesOf, ...]:
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
                found = len(pairs_of(side.where(lone), judge)) if count else 0
                own[row] += found
                theirs[row] += count - found
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
            place = np.average([box.corners for box in group], axis=0, weights=scores + 1e-9)
            agreed.append((place, group[0].label, float(scores.mean())))
    return BoxesOf(
        np.array([place for place, _, _ in agreed]).reshape(-1, 4),
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
