"""A COCO JSON whose boxes and joints are in other units or forms, made what is meant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sfda.errors import BadInput, Concerns, listed
from sfda.formats.coco import Document
from sfda.formats.plausibility.boxes import (
    BOX_FORMATS,
    Sized,
    box_concerns,
    in_pixels,
    is_bbox,
    sizes_of,
)
from sfda.formats.plausibility.joints import JOINT_FORMATS, joint_concerns, joints_in_pixels
from sfda.formats.readers import Reader


class CoordinateFormats(NamedTuple):
    """What a person says that boxes and joints are; None where nothing is said."""

    boxes: str | None = None  # of BOX_FORMATS
    joints: str | None = None  # of JOINT_FORMATS

    def check(self) -> None:
        """Raise BadInput for formats that there are not."""
        for name, value, known in (
            ("--box-format", self.boxes, BOX_FORMATS),
            ("--joint-format", self.joints, JOINT_FORMATS),
        ):
            if value is not None and value not in known:
                raise BadInput(f"{name} {value}: it is one of {', '.join(known)}")


def known_sizes(images: Sequence[Mapping[str, Any]], reader: Reader) -> Sized:
    """Width and height of each image, as the document states them, or as they are. `reader`: the
    images in the same order. Raises BadInput.
    """
    stated = dict(sizes_of(images))
    for row, image in enumerate(images):
        if image["id"] not in stated:
            height, width = reader.size(row)
            stated[image["id"]] = (float(width), float(height))
    return stated


def document_in_pixels(document: Document, formats: CoordinateFormats, sizes: Sized) -> Document:
    """The document with boxes x, y, width and height, and joints, in pixels. Raises BadInput naming
    what has no numbers to take so.
    """
    if formats.boxes in (None, "xywh") and formats.joints in (None, "pixels"):
        return document
    odd, entries = [], []
    for entry in document["annotations"]:
        size, new = sizes.get(entry["image_id"]), dict(entry)
        if size is None:
            odd.append(f"annotation {entry.get('id')}")
            continue
        if formats.boxes and is_bbox(entry.get("bbox")):
            new["bbox"] = in_pixels(entry["bbox"], formats.boxes, size)
        if formats.joints and isinstance(entry.get("keypoints"), list):
            box = new["bbox"] if is_bbox(new.get("bbox")) else (0.0, 0.0, *size)
            try:
                new["keypoints"] = joints_in_pixels(entry["keypoints"], formats.joints, size, box)
            except (TypeError, ValueError):
                odd.append(f"annotation {entry.get('id')}")
        entries.append(new)
    if odd:
        raise BadInput(f"annotations without an image, or without numbers: {listed(odd)}")
    return {**document, "annotations": entries}


def concerns_of(
    entries: Sequence[Mapping[str, Any]], sizes: Sized, *, joints: bool = False
) -> Concerns:
    """What is odd about boxes, and `joints`, of these annotations."""
    boxes = box_concerns(entries, sizes)
    if not joints:
        return boxes
    more = joint_concerns(entries, sizes)
    return Concerns(boxes.faults + more.faults, boxes.notes + more.notes)
