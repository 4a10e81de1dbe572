"""What a problem has to say for its samples to go out to people and come back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Generic
from xml.sax.saxutils import quoteattr

from sfda.errors import listed
from sfda.formats.annotations import PictureAnnotations
from sfda.formats.request import Guess, Request, RequestedNames, RequestedRow
from sfda.manifests.rows import Split
from sfda.problems._labels import Array
from sfda.problems._outputs import Prediction

Annotation = Any  # a checked answer: a class, a mask, boxes, a person
Filed = Any  # the same as it is written down: text, or an image's file, or COCO's annotations
Results = list[dict[str, Any]]


class Unfit(Exception):
    """An answer that cannot be taken: what kind of fault it is, and of which sample."""

    def __init__(self, kind: str, which: str) -> None:
        super().__init__(f"{kind}: {which}")
        self.kind, self.which = kind, which


class Labelling(ABC, Generic[Prediction]):
    """One problem's questions in the formats of people's tools, and its answers out of them."""

    empty: ClassVar[bool] = False  # whether a picture with nothing in it may be an answer
    nothing: ClassVar[str] = "box"  # what such a picture lacks
    localised: ClassVar[bool] = True  # whether an answer says where something is
    header: ClassVar[tuple[str, ...]]  # of the CSV, after row, file or index, and image

    def guess(self, output: Prediction, index_of: Array) -> Guess:
        """What to show of an output of the problem's `infer`, in the classes of the request:
        `index_of` [C] of the model's, UNKNOWN for none. By default nothing but a label.
        """
        return None

    def in_picture(self, guess: Guess, corner: tuple[int, int]) -> Guess:
        """The guess in pixels of a picture with this corner (x, y) in its image."""
        return guess

    def refuse_classes(self, asked: tuple[str, ...], model: tuple[str, ...], manifest: str) -> None:
        """Raise BadInput for classes that a request to this model cannot be in."""
        return

    @abstractmethod
    def control(self, request: Request) -> str:
        """The part of Label Studio's labelling interface that is not the image."""

    @abstractmethod
    def results(self, request: Request, sample: RequestedRow, guess: Guess) -> Results:
        """The model's answer as Label Studio's results."""

    def categories(self, request: Request) -> Results:
        """COCO's categories."""
        return [{"id": i, "name": name} for i, name in enumerate(request.classes, start=1)]

    @abstractmethod
    def coco_entries(self, request: Request, sample: RequestedRow, guess: Guess) -> Results:
        """The model's answer as COCO's annotations, without their ids."""

    @abstractmethod
    def lines(
        self, request: Request, sample: RequestedRow, guess: Guess
    ) -> Iterable[Sequence[Any]]:
        """The row's lines in the CSV under that header, with room for the answer."""

    def apportion(
        self, request: Request, names: RequestedNames, pictures: list[PictureAnnotations]
    ) -> list[PictureAnnotations]:
        """What was said of pictures as what is said of rows, where a picture holds several."""
        return pictures

    def refuse_resized(self, sample: RequestedRow, picture: PictureAnnotations) -> None:
        """Unfit for places in a picture of another size than the one that was asked about."""
        if picture.size and self.localised and picture.size != (sample.height, sample.width):
            raise Unfit(
                "of another size than its image",
                f"{sample.key} ({picture.size[1]} x {picture.size[0]}, not {sample.width} x "
                f"{sample.height})",
            )

    @abstractmethod
    def check(
        self, request: Request, sample: RequestedRow, picture: PictureAnnotations
    ) -> Annotation | None:
        """The checked answer, in pixels of the image; None where there is none. Raises Unfit."""

    @abstractmethod
    def filed(self, annotation: Annotation) -> Filed:
        """A checked answer as it is written down: text or an image for a CSV, a list of COCO's
        annotations for a JSON.
        """

    def document_categories(self, classes: tuple[str, ...]) -> Results:
        """Categories of the COCO JSON that answers are kept in."""
        return [{"id": i, "name": name} for i, name in enumerate(classes)]

    @abstractmethod
    def from_truth(self, split: Split, row: int, request: Request, sample: RequestedRow) -> Filed:
        """What an annotator who knows a labelled split would answer, in its own classes."""


def common(sample: RequestedRow, tag: str, kind: str) -> dict[str, Any]:
    """What each of Label Studio's results says beside its value."""
    return {
        "type": kind,
        "from_name": tag,
        "to_name": "image",
        "original_width": sample.width,
        "original_height": sample.height,
        "image_rotation": 0,
    }


def choices(request: Request, element: str, indent: str = "    ") -> str:
    """An element for each class."""
    return "\n".join(f"{indent}<{element} value={quoteattr(n)}/>" for n in request.classes)


def refuse_foreign(request: Request, sample: RequestedRow, labels: Iterable[str]) -> None:
    """Unfit for labels that the request does not know."""
    if odd := sorted(set(labels) - set(request.classes)):
        raise Unfit(
            f"unknown class (known: {listed(request.classes)})", f"{sample.key} ({', '.join(odd)})"
        )


def refuse_shapes(sample: RequestedRow, picture: PictureAnnotations) -> None:
    """Unfit for shapes where classes of the whole image are wanted."""
    if picture.boxes or picture.regions or picture.persons or picture.mask is not None:
        raise Unfit("shapes where a class of the whole image is wanted", sample.key)
