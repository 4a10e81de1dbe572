"""Classification: one class a picture."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sfda.annotation.problems._base import Labelling, Results, Unfit, choices, refuse_foreign
from sfda.annotation.request import Guess, Request, RequestedRow
from sfda.formats.annotations import PictureAnnotations


class ClassLabelling(Labelling):
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
            return None
        if len(picture.labels) > 1:
            raise Unfit("several classes", f"{sample.key} ({', '.join(picture.labels)})")
        refuse_foreign(request, sample, picture.labels)
        return picture.labels[0]
