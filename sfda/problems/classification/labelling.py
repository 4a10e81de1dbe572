"""Classification: one class a picture."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sfda.formats.annotations import PictureAnnotations
from sfda.formats.request import Guess, Request, RequestedRow
from sfda.manifests.rows import Split
from sfda.problems.classification.labels import ClassLabels
from sfda.problems.labelling import (
    Labelling,
    Results,
    Unfit,
    choices,
    refuse_foreign,
    refuse_shapes,
)
from sfda.types import Seen


class ClassLabelling(Labelling[Seen]):
    """Label Studio's choices; for COCO a box around all of the picture."""

    localised = False
    header = ("class", "model_says", "confidence")

    def control(self, request: Request) -> str:
        """One choice out of all classes."""
        inner = choices(request, "Choice")
        return f'  <Choices name="class" toName="image" choice="single">\n{inner}\n  </Choices>'

    def results(self, request: Request, sample: RequestedRow, guess: Guess) -> Results:
        """The likeliest class."""
        value = {"choices": [sample.label]}
        names = {"from_name": "class", "to_name": "image"}
        return [{"id": sample.row, "type": "choices", "value": value, **names}]

    def coco_entries(self, request: Request, sample: RequestedRow, guess: Guess) -> Results:
        """The likeliest class, of everything."""
        return [
            {
                "category_id": request.classes.index(str(sample.label)) + 1,
                "bbox": [0, 0, sample.width, sample.height],
                "area": sample.width * sample.height,
                "segmentation": [],
                "iscrowd": 0,
                "score": sample.confidence,
            }
        ]

    def lines(
        self, request: Request, sample: RequestedRow, guess: Guess
    ) -> Iterable[Sequence[Any]]:
        """One line."""
        yield "", sample.label or "", f"{sample.confidence:.4f}"

    def check(
        self, request: Request, sample: RequestedRow, picture: PictureAnnotations
    ) -> str | None:
        """The class."""
        if not picture.labels:
            refuse_shapes(sample, picture)
            return None
        if len(picture.labels) > 1:
            raise Unfit("several classes", f"{sample.key} ({', '.join(picture.labels)})")
        refuse_foreign(request, sample, picture.labels)
        return picture.labels[0]

    def filed(self, annotation: str) -> str:
        """The class."""
        return annotation

    def from_truth(self, split: Split, row: int, request: Request, sample: RequestedRow) -> str:
        """The class."""
        labels = split.labels
        assert isinstance(labels, ClassLabels)
        names = split.classes if isinstance(split.classes, tuple) else request.classes
        return names[int(labels.index[row])]


LABELLING = ClassLabelling()
