"""What CVAT exports: its own XML, "CVAT for images 1.1", and COCO JSON."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sfda.bounds.files import Unreadable
from sfda.documents import cut_off, parse_xml
from sfda.errors import BadInput
from sfda.formats.annotations import (
    PART_ERRORS,
    Canvas,
    DrawnBox,
    PaintedRegion,
    PictureAnnotations,
    PlacedJoint,
    drawn_size,
    outlined,
    pack,
    reason_of,
)
from sfda.formats.coco import OUTLINE_KEY, id_faults
from sfda.formats.coco_rle import decode_run_lengths, fill_polygons
from sfda.formats.masks import Bits


def from_xml(content: bytes, path: Path) -> list[PictureAnnotations]:
    """Every image of the document. Raises BadInput if it is none of CVAT's for images."""
    try:
        root = parse_xml(content)
    except Unreadable as error:
        raise BadInput(f"{path} cannot be read as XML: {error}") from None
    if root.tag != "annotations":
        tag = cut_off(root.tag)
        raise BadInput(f"{path} is no export of CVAT: its root is <{tag}>, not <annotations>")
    if root.find("track") is not None:
        raise BadInput(
            f"{path} holds tracks of a video; export it as 'CVAT for images 1.1', frame by frame"
        )
    canvas = Canvas()
    return [_image(element, path, canvas) for element in root.iter("image")]


def _image(element: ET.Element, path: Path, canvas: Canvas) -> PictureAnnotations:
    """What was drawn in one image. Shapes with a higher z_order lie above."""
    file = element.get("name")
    if not file:
        raise BadInput(f"{path}: image {element.get('id', '?')} has no name")
    labels, regions, boxes, persons, loose = [], [], [], [], []
    try:
        size = drawn_size(element.attrib["height"], element.attrib["width"])
        for shape in sorted(element, key=lambda s: int(s.get("z_order", 0))):
            label = shape.attrib["label"]
            if shape.tag == "tag":
                labels.append(label)
            elif shape.tag == "box":
                boxes.append(DrawnBox(label, _corners(shape)))
            elif shape.tag == "skeleton":
                seen = [p for p in shape.iter("points") if p.get("outside", "0") != "1"]
                persons.append(tuple(dot for p in seen for dot in _placed(p)))
            elif shape.tag == "points":
                loose += _placed(shape)
            elif shape.tag in ("mask", "polygon"):
                canvas.take(size)
                draw = _mask if shape.tag == "mask" else _polygon
                regions.append(PaintedRegion(label, pack(draw(shape, size))))
            else:
                raise ValueError(f"a {shape.tag} is no answer to any request")
    except PART_ERRORS as error:
        return PictureAnnotations(file, None, file, fault=f"it cannot be read ({reason_of(error)})")
    if loose:
        persons.append(tuple(loose))
    return PictureAnnotations(
        file,
        None,
        file,
        tuple(dict.fromkeys(labels)),
        tuple(regions),
        tuple(boxes),
        tuple(person for person in persons if person),
        size=size,
    )


def _corners(box: ET.Element) -> tuple[float, float, float, float]:
    """x1, y1, x2, y2; of a box turned about its middle, what surrounds it."""
    x1, y1, x2, y2 = (float(box.attrib[name]) for name in ("xtl", "ytl", "xbr", "ybr"))
    angle = np.radians(float(box.get("rotation", 0)))
    if not angle:
        return x1, y1, x2, y2
    cos, sin = abs(np.cos(angle)), abs(np.sin(angle))
    wide = ((x2 - x1) * cos + (y2 - y1) * sin) / 2
    high = ((x2 - x1) * sin + (y2 - y1) * cos) / 2
    x, y = (x1 + x2) / 2, (y1 + y2) / 2
    return float(x - wide), float(y - high), float(x + wide), float(y + high)


def _pairs(text: str) -> list[tuple[float, float]]:
    pairs = (pair.split(",") for pair in text.split(";"))
    return [(float(x), float(y)) for x, y in pairs]


def _placed(points: ET.Element) -> list[PlacedJoint]:
    return [PlacedJoint(points.attrib["label"], x, y) for x, y in _pairs(points.attrib["points"])]


def _polygon(shape: ET.Element, size: tuple[int, int]) -> Bits:
    return outlined(np.array(_pairs(shape.attrib["points"])), size)


def _mask(shape: ET.Element, size: tuple[int, int]) -> Bits:
    """Run lengths of 0 and 1 in turn, row by row, in a window of the image."""
    left, top, width, height = (int(shape.attrib[n]) for n in ("left", "top", "width", "height"))
    if min(width, height) < 1:
        raise ValueError(f"a mask of {width} x {height} pixels")
    if left < 0 or top < 0 or left + width > size[1] or top + height > size[0]:
        raise ValueError("a mask reaches beyond its image")
    code = shape.attrib["rle"]
    if code.count(",") > width * height + 1:  # a run of no pixel may begin it, and end it
        raise ValueError(f"{code.count(',') + 1} run lengths, more than the mask has pixels")
    runs = [int(run) for run in code.split(",")]
    if sum(runs) != width * height or min(runs) < 0:
        raise ValueError(f"its run lengths are of {sum(runs)} pixels, not {width * height}")
    bits = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(height, width)
    out = np.zeros(size, bool)
    out[top : top + height, left : left + width] = bits
    return out


def from_coco(document: Mapping[str, Any]) -> Iterator[PictureAnnotations]:
    """Every image of a COCO JSON: its boxes, painted regions and joints. Raises ValueError for ids
    that are none, and what reading another document raises.
    """
    if faults := id_faults(document):
        raise ValueError("; ".join(faults))
    names = {c["id"]: str(c["name"]) for c in document["categories"]}
    joints = {c["id"]: [str(n) for n in c.get("keypoints", ())] for c in document["categories"]}
    parts: dict[Any, list[Mapping[str, Any]]] = {}
    for annotation in document["annotations"]:
        parts.setdefault(annotation["image_id"], []).append(annotation)
    known, canvas = {image["id"] for image in document["images"]}, Canvas()
    for stray in sorted(set(parts) - known, key=str):
        yield PictureAnnotations(
            f"image {stray}", None, None, fault="annotations of an image not in the file"
        )
    for image in document["images"]:
        file, row = str(image["file_name"]), image.get("row")
        labels, regions, boxes, persons = [], [], [], []
        odd: dict[str, None] = {}
        try:
            size = drawn_size(image["height"], image["width"])
        except PART_ERRORS as error:
            fault = f"its size cannot be read ({reason_of(error)})"
            yield PictureAnnotations(file, None if row is None else str(row), file, fault=fault)
            continue
        for annotation in parts.get(image["id"], []):
            label = names.get(annotation["category_id"])
            if label is None:
                odd[f"category {annotation['category_id']} has no name"] = None
                continue
            try:
                if annotation.get("keypoints"):
                    if own := _joints(annotation, joints[annotation["category_id"]]):
                        persons.append(own)
                    continue
                if annotation.get("bbox"):
                    x, y, width, height = map(float, annotation["bbox"])
                    boxes.append(DrawnBox(label, (x, y, x + width, y + height)))
                bits = _bits(annotation.get(OUTLINE_KEY), size, canvas)
            except PART_ERRORS as error:
                odd[f"its annotation cannot be read ({reason_of(error)})"] = None
                continue
            if bits is None or float(bits.mean()) > 0.98:  # a box around all, as a polygon
                labels.append(label)
            if bits is not None:
                regions.append(PaintedRegion(label, pack(bits)))
        yield PictureAnnotations(
            file,
            None if row is None else str(row),
            file,
            tuple(dict.fromkeys(labels)),
            tuple(regions),
            tuple(boxes),
            tuple(persons),
            size=size,
            fault="; ".join(odd) or None,
        )


def _joints(annotation: Mapping[str, Any], names: list[str]) -> tuple[PlacedJoint, ...]:
    table = np.array(annotation["keypoints"], float).reshape(-1, 3)
    if len(table) != len(names):
        raise ValueError(f"{len(table)} key points of {len(names)}")
    return tuple(
        PlacedJoint(name, float(x), float(y))
        for name, (x, y, v) in zip(names, table, strict=True)
        if v > 0
    )


def _bits(where: object, size: tuple[int, int], canvas: Canvas) -> Bits | None:
    """COCO's polygons, or its run lengths, as pixels."""
    if not where:
        return None
    canvas.take(size)
    if not isinstance(where, dict):
        return fill_polygons(where, size)
    if tuple(where.get("size", size)) != size:
        raise ValueError(f"run lengths of {where['size']} pixels, the picture has {list(size)}")
    return decode_run_lengths(where["counts"], size)
