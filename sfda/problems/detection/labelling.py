"""Detection: boxes with a class each; none at all may be the answer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch

from sfda.building_blocks.boxes import Boxes, BoxLabels
from sfda.formats.annotations import PictureAnnotations
from sfda.formats.coco import SMALLEST
from sfda.formats.request import Guess, Request, RequestedRow
from sfda.manifests.rows import Split
from sfda.problems._labels import Array
from sfda.problems.detection.labels import BoxSets
from sfda.problems.labelling import Labelling, Results, Unfit, choices, common, refuse_foreign
from sfda.types import UNKNOWN

SHOWN_SCORE = 0.3  # score from which a box is shown to people


class BoxLabelling(Labelling[tuple[int, Boxes]]):
    """Label Studio's rectangles, COCO's boxes, a line of the CSV a box."""

    empty = True
    header = ("class", "x", "y", "width", "height", "model_says", "confidence")

    def guess(self, output: tuple[int, Boxes], index_of: Array) -> Boxes:
        """The boxes that are worth showing."""
        boxes = output[1]
        boxes = boxes.where(boxes.scores >= SHOWN_SCORE)
        boxes = boxes._replace(labels=torch.from_numpy(index_of)[boxes.labels])
        return boxes.where(boxes.labels != UNKNOWN)

    def control(self, request: Request) -> str:
        """A rectangle a class."""
        inner = choices(request, "Label")
        return (
            f'  <RectangleLabels name="box" toName="image" canRotate="false">\n{inner}\n'
            "  </RectangleLabels>"
        )

    def results(self, request: Request, sample: RequestedRow, guess: Guess) -> Results:
        """One rectangle a box, in percent of the picture."""
        entries = []
        for number, (name, box, score) in enumerate(_guessed_boxes(request, guess)):
            across, down = 100 / sample.width, 100 / sample.height
            x, y, width, height = box
            entries.append(
                {
                    "id": f"{sample.row}-{number}",
                    "value": {
                        "x": x * across,
                        "y": y * down,
                        "width": width * across,
                        "height": height * down,
                        "rotation": 0,
                        "rectanglelabels": [name],
                    },
                    "score": score,
                    **common(sample, "box", "rectanglelabels"),
                }
            )
        return entries

    def coco_entries(self, request: Request, sample: RequestedRow, guess: Guess) -> Results:
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
            for name, box, score in _guessed_boxes(request, guess)
        ]

    def lines(
        self, request: Request, sample: RequestedRow, guess: Guess
    ) -> Iterable[Sequence[Any]]:
        """One line a box: with a class filled in it is one of the answer, without it is not."""
        boxes = _guessed_boxes(request, guess)
        for name, box, score in boxes:
            yield "", *(f"{v:.2f}" for v in box), name, f"{score:.4f}"
        if not boxes:
            yield "", "", "", "", "", "", ""

    def check(
        self, request: Request, sample: RequestedRow, picture: PictureAnnotations
    ) -> BoxLabels | None:
        """The boxes, clipped to the picture."""
        if len(picture.regions) > len(picture.boxes):
            raise Unfit("masks or polygons where boxes are wanted", sample.key)
        if picture.empties:
            raise Unfit("annotations that disagree", f"{sample.key} (boxes, and none at all)")
        if not picture.boxes and (picture.labels or picture.persons or picture.mask is not None):
            raise Unfit("something else where boxes are wanted", sample.key)
        if not picture.boxes and not picture.done:
            return None
        refuse_foreign(request, sample, (box.label for box in picture.boxes))
        corners = np.array([box.corners for box in picture.boxes], np.float64).reshape(-1, 4)
        if not np.isfinite(corners).all():
            raise Unfit("boxes that are no numbers", sample.key)
        limit = (sample.width, sample.height) * 2
        corners = np.clip(corners, 0, limit)
        if ((corners[:, 2:] - corners[:, :2]) < SMALLEST).any():
            raise Unfit("boxes without an area, or outside of their image", sample.key)
        labels = np.array([request.classes.index(box.label) for box in picture.boxes], np.int64)
        return BoxLabels(corners.astype(np.float32), labels, np.zeros(len(labels), np.bool_))

    def filed(self, annotation: BoxLabels) -> Results:
        """An annotation a box; of crowds there is none."""
        return [
            {"category_id": int(label), "bbox": [x1, y1, x2 - x1, y2 - y1]}
            for (x1, y1, x2, y2), label, crowd in zip(
                annotation.boxes.tolist(), annotation.labels, annotation.crowd, strict=True
            )
            if not crowd
        ]

    def from_truth(self, split: Split, row: int, request: Request, sample: RequestedRow) -> Results:
        """The boxes."""
        assert isinstance(split.labels, BoxSets)
        return self.filed(split.labels[row])


def _guessed_boxes(request: Request, guess: Guess) -> list[tuple[str, tuple[float, ...], float]]:
    """Class, box (x, y, width, height) and score of all that the model sees."""
    if guess is None:
        return []
    return [
        (request.classes[int(label)], (x1, y1, x2 - x1, y2 - y1), float(score))
        for (x1, y1, x2, y2), label, score in zip(
            guess.boxes.tolist(), guess.labels, guess.scores, strict=True
        )
    ]


LABELLING = BoxLabelling()
