"""Boxes that are not x, y, width and height in pixels: counted, and what they look like."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from sfda.errors import Concerns
from sfda.formats.coco import OUTLINE_KEY, is_number, stated_size

_Numbers = np.ndarray[Any, Any]
Sized = Mapping[Any, tuple[float, float]]  # width and height of images, by their ids
BOX_FORMS = {
    "xywh": "x, y, width, height",
    "xyxy": "corners x1, y1, x2, y2",
    "cxcywh": "centres x, y with width, height",
}
SHARES = "-shares"  # of a form: of the image's sides, instead of pixels
BOX_FORMATS = (*BOX_FORMS, *(f"{form}{SHARES}" for form in BOX_FORMS))
_SLACK = 1.0  # pixels that a box may reach beyond its image, as rounding makes it
MOST_OUT = 0.3  # share of boxes beyond their images from which that is no accident


class _Table(NamedTuple):
    """Boxes [N, 4] as they stand, sizes [N, 2] of their images (width, height), and the areas [N]
    and polygons' bounds [N, 4] that are stated beside them, NaN where none are.
    """

    boxes: _Numbers
    sizes: _Numbers
    areas: _Numbers
    outlines: _Numbers


def sizes_of(images: Sequence[Mapping[str, Any]]) -> Sized:
    """The sizes that a document states."""
    sizes = {}
    for image in images:
        width, height = stated_size(image)
        if width and height:
            sizes[image["id"]] = (float(width), float(height))
    return sizes


def box_concerns(entries: Sequence[Mapping[str, Any]], sizes: Sized) -> Concerns:
    """What is odd about the boxes of a document's annotations."""
    table = _table(entries, sizes)
    notes = _doubles(entries)
    count = len(table.boxes)
    if not count:
        return Concerns([], notes)
    form = looks_like(table)
    if form:
        return Concerns([f"{_seen_as(form, table)} If so: --box-format {form}{_or(form)}"], notes)
    beyond, small = int(_beyond(table).sum()), int((table.boxes[:, 2:] < 1).any(1).sum())
    if beyond:
        notes.append(f"{beyond} of {count} boxes reach beyond their images by more than a pixel")
    if small:
        notes.append(f"{small} of {count} boxes are below one pixel wide or high")
    negative = int((table.boxes[:, 2:] < 0).any(1).sum())
    if negative:
        notes.append(f"{negative} of {count} boxes have a negative width or height")
    return Concerns([], notes)


def _seen_as(form: str, table: _Table) -> str:
    """What boxes in a form that is not meant look like, as a question."""
    count, words = len(table.boxes), BOX_FORMS[form.removesuffix(SHARES)]
    if form.endswith(SHARES):
        kind = "" if form == f"xywh{SHARES}" else f", as {words}"
        return f"all {count} boxes are below one pixel: shares of the image{kind}?"
    beyond, meant = int(_beyond(table).sum()), BOX_FORMS["xywh"]
    return (
        f"{beyond} of {count} boxes reach beyond their images as {meant}, and all fit as {words}: "
        "are they that?"
    )


def _or(form: str) -> str:
    """The other forms that the same numbers may be in."""
    if form != f"xywh{SHARES}":
        return " when the manifest is made"
    return f", or cxcywh{SHARES} where x, y is the centre, when the manifest is made"


def _table(entries: Sequence[Mapping[str, Any]], sizes: Sized) -> _Table:
    rows = [
        (e["bbox"], sizes.get(e["image_id"], (np.nan, np.nan)), _area(e), _outline(e))
        for e in entries
        if is_bbox(e.get("bbox"))
    ]
    boxes, frames, areas, outlines = zip(*rows, strict=True) if rows else ((), (), (), ())
    return _Table(
        np.array(boxes, float).reshape(-1, 4),
        np.array(frames, float).reshape(-1, 2),
        np.array(areas, float),
        np.array(outlines, float).reshape(-1, 4),
    )


def is_bbox(value: object) -> bool:
    """Whether these are four numbers."""
    return isinstance(value, list | tuple) and len(value) == 4 and all(map(is_number, value))


def _area(entry: Mapping[str, Any]) -> float:
    area = entry.get("area")
    return float(area) if is_number(area) and area > 0 else float("nan")  # type: ignore[arg-type,operator]


def _outline(entry: Mapping[str, Any]) -> tuple[float, float, float, float]:
    """The bounds x1, y1, x2, y2 of an annotation's polygons."""
    parts = entry.get(OUTLINE_KEY)
    numbers = [
        value
        for part in (parts if isinstance(parts, list) else ())
        if isinstance(part, list) and len(part) % 2 == 0
        for value in part
    ]
    if len(numbers) < 6 or not all(map(is_number, numbers)):
        return (float("nan"),) * 4
    xs, ys = numbers[0::2], numbers[1::2]
    return min(xs), min(ys), max(xs), max(ys)


def looks_like(table: _Table) -> str | None:
    """The form that all boxes are in, beyond doubt, where it is not that which is meant."""
    boxes, sizes = table.boxes, table.sizes
    if (boxes <= 0).all():
        return None
    large = not (sizes <= 2).any()  # of an image of a pixel or two a share is a pixel
    if large and (boxes >= -0.01).all() and (boxes[:, 2:] <= 1.01).all() and (boxes <= 1.01).all():
        return f"{_share_form(boxes)}{SHARES}"
    by_outline = _by_outline(table)
    if by_outline:
        return by_outline if by_outline != "xywh" else None
    corners = _fit(_corners(boxes, "xyxy"), sizes)
    by_area = np.isclose(_sides(boxes), table.areas, rtol=0.02)
    as_corners = np.isclose(_sides(_as_sides(boxes)), table.areas, rtol=0.02)
    if corners.all() and as_corners.all() and not by_area.any():
        return "xyxy"
    beyond = _beyond(table)
    if not beyond.any():
        return None
    if corners.all() and beyond.mean() >= MOST_OUT:
        return "xyxy"
    centres = _fit(_corners(boxes, "cxcywh"), sizes, _SLACK)
    if centres.all() and (beyond.mean() >= MOST_OUT or beyond.sum() >= 5):
        return "cxcywh"
    return None


def _share_form(boxes: _Numbers) -> str:
    """Which of the forms boxes of shares are in."""
    reach = boxes[:, :2] + boxes[:, 2:]
    if (reach <= 1.01).all():
        return "xywh"
    centres = _corners(boxes, "cxcywh")
    if (centres >= -0.01).all() and (centres <= 1.01).all():
        return "cxcywh"
    return "xyxy" if (boxes[:, 2:] >= boxes[:, :2]).all() else "xywh"


def _by_outline(table: _Table) -> str | None:
    """The form in which nine of ten boxes lie around the polygons that are stated with them."""
    known = ~np.isnan(table.outlines).any(1)
    if known.sum() < 3:
        return None
    for form in BOX_FORMS:
        off = np.abs(_corners(table.boxes[known], form) - table.outlines[known]).max(1)
        if (off <= 2 * _SLACK).mean() >= 0.9:
            return form
    return None


def _corners(boxes: _Numbers, form: str) -> _Numbers:
    """x1, y1, x2, y2 of boxes in one of the forms."""
    first, second = boxes[:, :2], boxes[:, 2:]
    if form == "xyxy":
        return boxes
    low = first if form == "xywh" else first - second / 2
    return np.hstack([low, low + second])


def _fit(corners: _Numbers, sizes: _Numbers, slack: float = 0.5) -> _Numbers:
    """[N]: which have an area, and lie in their image; one of unknown size has no end."""
    ends = np.nan_to_num(sizes, nan=np.inf)
    inside = (corners[:, :2] >= -slack).all(1) & (corners[:, 2:] <= ends + slack).all(1)
    return np.asarray(inside & (corners[:, 2:] > corners[:, :2]).all(1))


def _beyond(table: _Table) -> _Numbers:
    """[N]: which reach out of their image, read as x, y, width and height."""
    corners = _corners(table.boxes, "xywh")
    ends = np.nan_to_num(table.sizes, nan=np.inf)
    return np.asarray((corners[:, :2] < -_SLACK).any(1) | (corners[:, 2:] > ends + _SLACK).any(1))


def _sides(boxes: _Numbers) -> _Numbers:
    return np.asarray(boxes[:, 2] * boxes[:, 3])


def _as_sides(corners: _Numbers) -> _Numbers:
    return np.hstack([corners[:, :2], corners[:, 2:] - corners[:, :2]])


def _doubles(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """Annotations that say the same of one image twice, and ids that several have."""
    same: Counter[Any] = Counter()
    other: dict[Any, set[Any]] = {}
    ids = Counter(e["id"] for e in entries if isinstance(e.get("id"), int | str) and e["id"] != 0)
    for entry in entries:
        if is_bbox(entry.get("bbox")):
            where = (entry["image_id"], *map(float, entry["bbox"]))
            same[(*where, entry["category_id"], repr(entry.get("keypoints")))] += 1
            other.setdefault(where, set()).add(entry["category_id"])
    twice = sum(times - 1 for times in same.values())
    notes = []
    if twice:
        notes.append(f"{twice} boxes are there twice: the same box of the same class in one image")
    if several := sum(len(own) > 1 for own in other.values()):
        notes.append(f"{several} boxes have several classes")
    if shared := sum(times - 1 for times in ids.values()):
        notes.append(f"{shared} annotations have an id that another has")
    return notes


def in_pixels(bbox: Sequence[float], form: str, size: tuple[float, float]) -> list[float]:
    """A box of one of the formats as x, y, width and height in pixels of an image of this size.

    >>> in_pixels([0.5, 0.5, 0.5, 0.5], "cxcywh-shares", (48, 40))
    [12.0, 10.0, 24.0, 20.0]
    """
    scale = np.array(size * 2) if form.endswith(SHARES) else np.ones(4)
    box = np.array([bbox], float) * scale
    x1, y1, x2, y2 = _corners(box, form.removesuffix(SHARES))[0].tolist()
    return [x1, y1, x2 - x1, y2 - y1]
