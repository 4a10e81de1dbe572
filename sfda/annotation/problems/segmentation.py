"""Segmentation: a mask a picture, painted region by region."""

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
from sfda.formats.annotations import Given
from sfda.formats.label_studio_rle import encode_brush
from sfda.formats.masks import IGNORE, Mask


class PaintedMasks(Labelling):
    """Label Studio's brushes; COCO's run lengths; the CSV names a mask's file."""

    header = ("mask", "model_says", "confidence")

    def control(self, request: Request) -> str:
        """A brush a class."""
        inner = choices(request, "Label")
        return f'  <BrushLabels name="mask" toName="image">\n{inner}\n  </BrushLabels>'

    def results(self, request: Request, wanted: WantedRow, guess: Guess) -> Results:
        """One region a class."""
        return [
            {
                "id": f"{wanted.row}-{index}",
                "value": {
                    "format": "rle",
                    "rle": encode_brush(bits),
                    "brushlabels": [request.classes[index]],
                },
                **common(wanted, "mask", "brushlabels"),
            }
            for index, bits in _parts(request, guess)
        ]

    def annotations(self, request: Request, wanted: WantedRow, guess: Guess) -> Results:
        """One region a class."""
        from pycocotools import mask as codec

        found = []
        for index, bits in _parts(request, guess):
            code = codec.encode(np.asfortranarray(bits))
            found.append(
                {
                    "category_id": index + 1,
                    "bbox": codec.toBbox(code).tolist(),
                    "area": float(codec.area(code)),
                    "segmentation": {"size": code["size"], "counts": code["counts"].decode()},
                    "iscrowd": 1,
                    "score": wanted.confidence,
                }
            )
        return found

    def lines(self, request: Request, wanted: WantedRow, guess: Guess) -> Iterable[Sequence[Any]]:
        """One line."""
        yield "", "", f"{wanted.confidence:.4f}"

    def answer(self, request: Request, wanted: WantedRow, given: Given) -> Mask | None:
        """The mask, as indices of the request's classes."""
        if not given.regions and given.mask is None:
            return None
        refuse_foreign(request, wanted, (r.label for r in given.regions))
        size = (wanted.height, wanted.width)
        shapes = {r.bits.shape for r in given.regions}
        if given.mask is not None:
            shapes.add(given.mask.shape)
        if shapes != {size}:
            raise Unfit("of another size than its image", f"{wanted.key} ({sorted(shapes)[0]})")
        mask = painted(given, request.classes, size)
        values = np.unique(mask[mask != IGNORE])
        if not len(values):
            raise Unfit("no pixel that counts", wanted.key)
        if values.max() >= len(request.classes):
            raise Unfit("values of no class", f"{wanted.key} ({int(values.max())})")
        return mask


def _parts(request: Request, guess: Guess) -> list[tuple[int, np.ndarray[Any, Any]]]:
    assert guess.mask is not None
    there = [int(i) for i in np.unique(guess.mask) if i < len(request.classes)]
    return [(index, guess.mask == index) for index in there]


def painted(given: Given, classes: tuple[str, ...], size: tuple[int, int]) -> Mask:
    """Regions as one mask of class indices: later ones lie above. What nobody painted is
    `background` where there is such a class, and does not count otherwise.
    """
    if given.mask is not None:
        return given.mask
    rest = classes.index("background") if "background" in classes else IGNORE
    mask = np.full(size, rest, np.uint8)
    for region in given.regions:
        mask[region.bits] = classes.index(region.label)
    return mask
