"""Detection: boxes with a class each; none at all may be the answer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from sfda.annotation.problems._base import (
    Labelling,
    Results,
    Unfit,
    choices,
    common,
    refuse_foreign,
)
from sfda.annotation.request import Guess, Request, WantedRow
from sfda.building_blocks.boxes import BoxLabels
from sfda.formats.annotations import Given
from sfda.formats.coco import SMALLEST


class DrawnBoxes(Labelling):
    """Label Studio's rectangles, COCO's boxes, a line of the CSV a box."""

    empty = True
    header = ("class", "x", "y", "width", "height", "model_says", "confidence")

    def control(self, request: Request) -> str:
        """A rectangle a class."""
        inner = choices(request, "Label")
        return (
            f'  <RectangleLabels name="box" toName="image" canRotate="false">\n{inner}\n'
            "  </RectangleLabels>"
        )

    def results(self, request: Request, wanted: WantedRow, guess: Guess) -> Results:
        """One rectangle a box, in percent of the picture."""
        found = []
        for number, (name, box, score) in enumerate(_found(request, guess)):
            across, down = 100 / wanted.width, 100 / wanted.height
            x, y, width, height = box
            found.append(
                {
                    "id": f"{wanted.row}-{number}",
                    "value": {
                        "x": x * across, "y": y * down, "width": width * across,
                        "height": height * down, "rotation": 0, "rectanglelabels": [name],
                    },
                    "score": score,
                    **common(wanted, "box", "rectanglelabels"),
                }
            )  # fmt: skip
        return found

    def annotations(self, request: Request, wanted: WantedRow, guess: Guess) -> Results:
        """One annotation a box."""
        return [
            {
                "category_id": request.classes.index(name) + 1,
                "bbox": list(box),
                "area": box[2] * box[3],
                "segmentation": [],
                "iscrowd": 0,
                "score": score,
            }
            for name, box, score in _found(request, guess)
        ]

    def lines(self, request: Request, wanted: WantedRow, guess: Guess) -> Iterable[Sequence[Any]]:
        """One line a box: with a class filled in it is one of the answer, without it is not."""
        found = _found(request, guess)
        for name, box, score in found:
            yield "", *(f"{v:.2f}" for v in box), name, f"{score:.4f}"
        if not found:
            yield "", "", "", "", "", "", ""

    def answer(self, request: Request, wanted: WantedRow, given: Given) -> BoxLabels | None:
        """The boxes, clipped to the picture."""
        if len(given.regions) > len(given.boxes):
            raise Unfit("masks or polygons where boxes are wanted", wanted.key)
        if given.empties:
            raise Unfit("annotations that disagree", f"{wanted.key} (boxes, and none at all)")
        if not given.boxes and (given.labels or given.people or given.mask is not None):
            raise Unfit("something else where boxes are wanted", wanted.key)
        if not given.boxes and not given.done:
            return None
        refuse_foreign(request, wanted, (box.label for box in given.boxes))
        corners = np.array([box.corners for box in given.boxes], np.float64).reshape(-1, 4)
        if not np.isfinite(corners).all():
            raise Unfit("boxes that are no numbers", wanted.key)
        limit = (wanted.width, wanted.height) * 2
        corners = np.clip(corners, 0, limit)
        if ((corners[:, 2:] - corners[:, :2]) < SMALLEST).any():
            raise Unfit("boxes without an area, or outside of their image", wanted.key)
        labels = np.array([request.classes.index(box.label) for box in given.boxes], np.int64)
        return BoxLabels(corners.astype(np.float32), labels, np.zeros(len(labels), np.bool_))


def _found(request: Request, guess: Guess) -> list[tuple[str, tuple[float, ...], float]]:
    """Class, box (x, y, width, height) and score of all that the model sees."""
    if guess.boxes is None:
        return []
    return [
        (request.classes[int(label)], (x1, y1, x2 - x1, y2 - y1), float(score))
        for (x1, y1, x2, y2), label, score in zip(
            guess.boxes.boxes.tolist(), guess.boxes.labels, guess.boxes.scores, strict=True
        )
    ]
