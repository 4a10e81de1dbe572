"""Segmentation: a mask a picture, painted region by region."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from sfda.formats.annotations import PictureAnnotations
from sfda.formats.label_studio_rle import encode_mask
from sfda.formats.masks import IGNORE, Mask, class_table
from sfda.formats.request import Guess, Request, RequestedRow
from sfda.loading.labels import labels_in
from sfda.manifests.rows import Split
from sfda.problems._labels import Array
from sfda.problems.labelling import Labelling, Results, Unfit, choices, common, refuse_foreign
from sfda.problems.segmentation.inference import MaskOfRow


class MaskLabelling(Labelling[MaskOfRow]):
    """Label Studio's brushes; COCO's run lengths; the CSV names a mask's file."""

    header = ("mask", "model_says", "confidence")

    def guess(self, output: MaskOfRow, index_of: Array) -> Mask:
        """The mask."""
        mask: Mask = class_table(index_of)[output[1]]
        return mask

    def control(self, request: Request) -> str:
        """A brush a class."""
        inner = choices(request, "Label")
        return f'  <BrushLabels name="mask" toName="image">\n{inner}\n  </BrushLabels>'

    def results(self, request: Request, sample: RequestedRow, guess: Guess) -> Results:
        """One region a class."""
        return [
            {
                "id": f"{sample.row}-{index}",
                "value": {
                    "format": "rle",
                    "rle": encode_mask(bits),
                    "brushlabels": [request.classes[index]],
                },
                **common(sample, "mask", "brushlabels"),
            }
            for index, bits in _parts(request, guess)
        ]

    def coco_entries(self, request: Request, sample: RequestedRow, guess: Guess) -> Results:
        """One region a class."""
        from pycocotools import mask as codec

        entries = []
        for index, bits in _parts(request, guess):
            code = codec.encode(np.asfortranarray(bits))
            entries.append(
                {
                    "category_id": index + 1,
                    "bbox": codec.toBbox(code).tolist(),
                    "area": float(codec.area(code)),
                    "segmentation": {"size": code["size"], "counts": code["counts"].decode()},
                    "iscrowd": 1,
                    "score": sample.confidence,
                }
            )
        return entries

    def lines(
        self, request: Request, sample: RequestedRow, guess: Guess
    ) -> Iterable[Sequence[Any]]:
        """One line."""
        yield "", "", f"{sample.confidence:.4f}"

    def check(
        self, request: Request, sample: RequestedRow, picture: PictureAnnotations
    ) -> Mask | None:
        """The mask, as indices of the request's classes."""
        if not picture.regions and picture.mask is None:
            if picture.boxes or picture.persons:
                raise Unfit(
                    "boxes or points where a mask is wanted; paint it with a brush or polygons",
                    sample.key,
                )
            return None
        refuse_foreign(request, sample, (r.label for r in picture.regions))
        size = (sample.height, sample.width)
        shapes = {r.where.shape for r in picture.regions}
        if picture.mask is not None:
            shapes.add(picture.mask.shape)
        if shapes != {size}:
            raise Unfit("of another size than its image", f"{sample.key} ({sorted(shapes)[0]})")
        mask = painted(picture, request.classes, size)
        values = np.unique(mask[mask != IGNORE])
        if not len(values):
            raise Unfit("no pixel that counts", sample.key)
        if values.max() >= len(request.classes):
            raise Unfit("values of no class", f"{sample.key} ({int(values.max())})")
        return mask

    def filed(self, annotation: Mask) -> Mask:
        """The mask."""
        return annotation

    def from_truth(self, split: Split, row: int, request: Request, sample: RequestedRow) -> Mask:
        """The mask, in the classes of the request."""
        mask: Mask = labels_in(split, request.classes).mask(row)
        return mask


def _parts(request: Request, guess: Guess) -> list[tuple[int, np.ndarray[Any, Any]]]:
    there = [int(i) for i in np.unique(guess) if i < len(request.classes)]
    return [(index, guess == index) for index in there]


def painted(picture: PictureAnnotations, classes: tuple[str, ...], size: tuple[int, int]) -> Mask:
    """Regions as one mask of class indices: later ones lie above. What nobody painted is
    `background` where there is such a class, and does not count otherwise.
    """
    if picture.mask is not None:
        return picture.mask.values
    rest = classes.index("background") if "background" in classes else IGNORE
    mask = np.full(size, rest, np.uint8)
    for region in picture.regions:
        mask[region.bits] = classes.index(region.label)
    return mask


LABELLING = MaskLabelling()
