"""CVAT's own XML, "CVAT for images 1.1"."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from sfda.errors import BadInput
from sfda.formats.annotations import Dot, Drawn, Given, Region
from sfda.formats.coco_rle import refuse_far

ODD = (KeyError, ValueError, TypeError, IndexError)


def from_xml(content: bytes, path: Path) -> list[Given]:
    """Every image of the document. Raises BadInput if it is none of CVAT's for images."""
    if b"<!DOCTYPE" in content or b"<!ENTITY" in content:
        raise BadInput(f"{path} defines entities, which no export of CVAT does")
    try:
        root = ET.fromstring(content)
    except ET.ParseError as error:
        raise BadInput(f"{path} cannot be read as XML: {error}") from None
    if root.tag != "annotations":
        raise BadInput(f"{path} is no export of CVAT: its root is <{root.tag}>, not <annotations>")
    if root.find("track") is not None:
        raise BadInput(
            f"{path} holds tracks of a video; export it as 'CVAT for images 1.1', frame by frame"
        )
    return [_image(element, path) for element in root.iter("image")]


def _image(element: ET.Element, path: Path) -> Given:
    """What was drawn in one image. Shapes with a higher z_order lie above."""
    file = element.get("name")
    if not file:
        raise BadInput(f"{path}: image {element.get('id', '?')} has no name")
    labels, regions, boxes, people, loose = [], [], [], [], []
    try:
        size = (int(element.attrib["height"]), int(element.attrib["width"]))
        for shape in sorted(element, key=lambda s: int(s.get("z_order", 0))):
            label = shape.attrib["label"]
            if shape.tag == "tag":
                labels.append(label)
            elif shape.tag == "box":
                boxes.append(Drawn(label, _corners(shape)))
            elif shape.tag == "skeleton":
                seen = [p for p in shape.iter("points") if p.get("outside", "0") != "1"]
                people.append(tuple(dot for p in seen for dot in _dots(p)))
            elif shape.tag == "points":
                loose += _dots(shape)
            elif shape.tag in ("mask", "polygon"):
                draw = _mask if shape.tag == "mask" else _polygon
                regions.append(Region(label, draw(shape, size)))
            else:
                raise ValueError(f"a {shape.tag} is no answer to any request")
    except ODD as error:
        said = f"no attribute {error}" if isinstance(error, KeyError) else str(error)
        return Given(file, None, file, fault=f"it cannot be read ({said})")
    if loose:
        people.append(tuple(loose))
    return Given(
        file, None, file, tuple(dict.fromkeys(labels)), tuple(regions), tuple(boxes),
        tuple(person for person in people if person), size=size,
    )  # fmt: skip


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


def _places(text: str) -> list[tuple[float, float]]:
    pairs = (pair.split(",") for pair in text.split(";"))
    return [(float(x), float(y)) for x, y in pairs]


def _dots(points: ET.Element) -> list[Dot]:
    return [Dot(points.attrib["label"], x, y) for x, y in _places(points.attrib["points"])]


def _polygon(shape: ET.Element, size: tuple[int, int]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    out = np.zeros(size, np.uint8)
    corners = np.array(_places(shape.attrib["points"]))
    refuse_far(corners, size)
    cv2.fillPoly(out, [np.floor(corners).astype(np.int32)], 1)
    return out.astype(bool)


def _mask(shape: ET.Element, size: tuple[int, int]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Run lengths of 0 and 1 in turn, row by row, in a window of the image."""
    left, top, width, height = (int(shape.attrib[n]) for n in ("left", "top", "width", "height"))
    runs = [int(run) for run in shape.attrib["rle"].split(",")]
    if sum(runs) != width * height or min(runs) < 0:
        raise ValueError(f"its run lengths are of {sum(runs)} pixels, not {width * height}")
    if left < 0 or top < 0 or left + width > size[1] or top + height > size[0]:
        raise ValueError("a mask reaches beyond its image")
    bits = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(height, width)
    out = np.zeros(size, bool)
    out[top : top + height, left : left + width] = bits
    return out
