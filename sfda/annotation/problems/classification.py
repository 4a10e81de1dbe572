"""Classification: one class a picture."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sfda.annotation.problems._base import Labelling, Results, Unfit, choices, refuse_foreign
from sfda.annotation.request import Guess, Request, WantedRow
from sfda.formats.annotations import Given


class Classes(Labelling):
    """Label Studio's choices; for COCO a box around all of the picture."""

    places = False
    header = ("class", "model_says", "confidence")

    def control(self, request: Request) -> str:
        """One choice out of all classes."""
        inner = choices(request, "Choice")
        return f'  <Choices name="class" toName="image" choice="single">\n{inner}\n  </Choices>'

    def results(self, request: Request, wanted: WantedRow, guess: Guess) -> Results:
        """The likeliest class."""
        value = {"choices": [wanted.label]}
        names = {"from_name": "class", "to_name": "image"}
        return [{"id": wanted.row, "type": "choices", "value": value, **names}]

    def annotations(self, request: Request, wanted: WantedRow, guess: Guess) -> Results:
        """The likeliest class, of everything."""
        return [
            {
                "category_id": request.classes.index(str(wanted.label)) + 1,
                "bbox": [0, 0, wanted.width, wanted.height],
                "area": wanted.width * wanted.height,
                "segmentation": [],
                "iscrowd": 0,
                "score": wanted.confidence,
            }
        ]

    def lines(self, request: Request, wanted: WantedRow, guess: Guess) -> Iterable[Sequence[Any]]:
        """One line."""
        yield "", wanted.label or "", f"{wanted.confidence:.4f}"

    def answer(self, request: Request, wanted: WantedRow, given: Given) -> str | None:
        """The class."""
        if not given.labels:
            return None
        if len(given.labels) > 1:
            raise Unfit("several classes", f"{wanted.key} ({', '.join(given.labels)})")
        refuse_foreign(request, wanted, given.labels)
        return given.labels[0]
