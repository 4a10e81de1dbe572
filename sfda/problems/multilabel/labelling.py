"""Multi-label classification: any number of classes a picture."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sfda.formats.annotations import PictureAnnotations
from sfda.formats.request import Guess, Request, RequestedRow
from sfda.manifests.rows import Split
from sfda.problems._labels import Array
from sfda.problems.labelling import Labelling, Results, choices, refuse_foreign, refuse_shapes
from sfda.problems.multilabel.cells import cell_of, names_in
from sfda.problems.multilabel.labels import ClassSets
from sfda.types import Seen


class ClassSetLabelling(Labelling[Seen]):
    """Label Studio's choices, several at once; for COCO a box around all of the picture a class."""

    empty = True
    nothing = "class"
    localised = False
    header = ("classes", "model_says", "confidence")

    def guess(self, output: Seen, index_of: Array) -> Guess:
        """The classes of 0.5 and above: their indices in the request, and their probabilities."""
        (probs,) = output.output.logits.sigmoid().tolist()
        pairs = [(int(i), p) for i, p in zip(index_of, probs, strict=True) if p >= 0.5 and i >= 0]
        return sorted(pairs)

    def control(self, request: Request) -> str:
        """Any choice out of all classes."""
        inner = choices(request, "Choice")
        return f'  <Choices name="class" toName="image" choice="multiple">\n{inner}\n  </Choices>'

    def results(self, request: Request, sample: RequestedRow, guess: Guess) -> Results:
        """The classes that the model says."""
        value = {"choices": _names(request, guess)}
        names = {"from_name": "class", "to_name": "image"}
        return [{"id": sample.row, "type": "choices", "value": value, **names}] if guess else []

    def coco_entries(self, request: Request, sample: RequestedRow, guess: Guess) -> Results:
        """The classes that the model says, each of everything."""
        return [
            {
                "category_id": index + 1,
                "bbox": [0, 0, sample.width, sample.height],
                "area": sample.width * sample.height,
                "segmentation": [],
                "iscrowd": 0,
                "score": probability,
            }
            for index, probability in guess or ()
        ]

    def lines(
        self, request: Request, sample: RequestedRow, guess: Guess
    ) -> Iterable[Sequence[Any]]:
        """One line."""
        yield "", cell_of(_names(request, guess)), f"{sample.confidence:.4f}"

    def check(
        self, request: Request, sample: RequestedRow, picture: PictureAnnotations
    ) -> tuple[str, ...] | None:
        """The classes, in the order of the request; none of them where somebody looked and chose
        nothing.
        """
        if not picture.labels:
            refuse_shapes(sample, picture)
        names = {name for label in picture.labels for name in names_in(label)}
        refuse_foreign(request, sample, names)
        if not names and not picture.done:
            return None
        return tuple(name for name in request.classes if name in names)

    def filed(self, annotation: tuple[str, ...]) -> str:
        """The classes in one cell."""
        return cell_of(annotation)

    def from_truth(self, split: Split, row: int, request: Request, sample: RequestedRow) -> str:
        """The classes in one cell."""
        labels = split.labels
        assert isinstance(labels, ClassSets)
        names = split.classes if isinstance(split.classes, tuple) else request.classes
        return cell_of(n for n, yes in zip(names, labels.flags[row], strict=True) if yes == 1)


def _names(request: Request, guess: Guess) -> list[str]:
    return [request.classes[index] for index, _ in guess or ()]


LABELLING = ClassSetLabelling()
