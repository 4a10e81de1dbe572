"""Label Studio's JSON and JSON-MIN: tasks with what people marked in them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np

from sfda.formats.annotations import (
    PART_ERRORS,
    Canvas,
    DrawnBox,
    PaintedRegion,
    PictureAnnotations,
    PlacedJoint,
    alike,
    drawn_size,
    outlined,
    pack,
    reason_of,
)
from sfda.formats.image_files import SUFFIXES
from sfda.formats.label_studio_rle import decode_mask

Value = Mapping[str, Any]
SIZE_KEYS = ("original_width", "original_height")
RELATION = "relation"  # a result that joins two others, and marks nothing
ADDRESSES = ("image", "img", "picture", "photo", "url", "image_url", "file_upload")
UPLOADS = "/upload/"  # in the address of a file that was uploaded
UPLOADED = re.compile(r"^[0-9a-f]{8}-")
OWN_TAGS = ("mask", "box", "joint")  # of our labelling interfaces
SHAPE_KEYS = ("x", "y", "points", "rle")  # one of these says where a shape lies


def read_tasks(tasks: Sequence[Value]) -> list[PictureAnnotations]:
    """What an export's tasks say, JSON or JSON-MIN."""
    canvas = Canvas()
    pictures = [_from_task(n, task, canvas) for n, task in enumerate(tasks, start=1)]
    return pictures if any("annotations" in task for task in tasks) else _together(pictures)


def _from_task(number: int, task: Value, canvas: Canvas) -> PictureAnnotations:
    """A Label Studio task: `data` and `annotations`, or all in one as in JSON-MIN."""
    data = task["data"] if isinstance(task.get("data"), dict) else task
    where = f"task {task.get('id', number)}"
    row, file = (None if data.get(k) is None else str(data[k]) for k in ("row", "file"))
    if row is None and file is None:
        file = _addressed(data)
    empty = PictureAnnotations(where, row, file)
    if "annotations" not in task:
        return _from_min(empty, task, canvas)
    parts, faults = [], dict[str, None]()
    annotations = task["annotations"] or []
    if not isinstance(annotations, list):
        return empty._replace(fault="its annotations are no list")
    for annotation in annotations:
        try:
            if annotation.get("was_cancelled"):
                continue
            values: list[Value] = [
                {**result["value"], **{k: result[k] for k in SIZE_KEYS if k in result}}
                for result in annotation.get("result") or []
                if result.get("type") != RELATION
            ]
            parts.append(_of_values(empty, values, canvas)._replace(done=True))
        except (*PART_ERRORS, AttributeError) as error:
            faults[f"its result cannot be read ({reason_of(error)})"] = None
    return empty._replace(fault="; ".join(faults)) if faults else _agreed(empty, parts)


def _addressed(data: Value) -> str | None:
    """The picture's file by the address that the task has of it, whatever a project calls that:
    local files, uploads (before whose names Label Studio puts eight digits), buckets, the web.
    """
    texts = {k: v for k, v in data.items() if isinstance(v, str) and v.strip()}
    order = sorted(texts, key=lambda k: (k not in ADDRESSES, not _is_picture(texts[k])))
    address = next((texts[k] for k in order if k in ADDRESSES or _is_picture(texts[k])), None)
    if address is None:
        return None
    local = parse_qs(urlsplit(address).query).get("d") if "?d=" in address else None
    if local:
        return local[0]
    path = address.strip()
    if "://" in path or path.startswith("/"):
        path = unquote(urlsplit(path).path)
    folders, slash, name = path.rpartition("/")
    if UPLOADS in f"{folders}/":
        name = UPLOADED.sub("", name)
    return f"{folders}{slash}{name}"


def _is_picture(text: str) -> bool:
    return "?d=" in text or text.partition("?")[0].lower().endswith(SUFFIXES)


def _agreed(empty: PictureAnnotations, parts: list[PictureAnnotations]) -> PictureAnnotations:
    """What several annotations of one picture say together."""
    marked = [one for one in parts if not one.empty] or parts[:1]
    if not marked:
        return empty
    if not all(alike(marked[0], other) for other in marked[1:]):
        return empty._replace(fault=f"{len(marked)} annotations that disagree")
    return marked[0]._replace(empties=len(parts) - len(marked) if not marked[0].empty else 0)


def _together(pictures: list[PictureAnnotations]) -> list[PictureAnnotations]:
    """JSON-MIN has an entry an annotation: those about one picture as one answer."""
    several: dict[tuple[str | None, str | None], list[PictureAnnotations]] = {}
    for one in pictures:
        several.setdefault((one.row, one.file), []).append(one)
    joined = []
    for (row, file), own in several.items():
        if len(own) > 1 and (row or file) and all(one.done and not one.fault for one in own):
            own = [_agreed(PictureAnnotations(own[0].where, row, file), own)]
        joined += own
    return joined


def _of_values(
    empty: PictureAnnotations, values: list[Value], canvas: Canvas
) -> PictureAnnotations:
    """What the values of Label Studio's results say together; texts and ratings say nothing."""
    labels: list[str] = []
    regions: list[PaintedRegion] = []
    boxes: list[DrawnBox] = []
    dots: list[PlacedJoint] = []
    for value in values:
        if "choices" in value:
            labels += map(str, value["choices"])
        elif "brushlabels" in value or "polygonlabels" in value:
            regions.append(_region(value, canvas))
        elif "rectanglelabels" in value:
            boxes.append(_box(value))
        elif "keypointlabels" in value:
            label = _label(value, "keypointlabels", "point")
            x, y = (
                float(value[n]) / 100 * int(value[k]) for n, k in zip("xy", SIZE_KEYS, strict=True)
            )
            dots.append(PlacedJoint(label, x, y))
        elif set(SHAPE_KEYS) & set(value):
            raise ValueError("a shape without a class of the request's labelling interface")
    sizes = {
        drawn_size(value[SIZE_KEYS[1]], value[SIZE_KEYS[0]])
        for value in values
        if SIZE_KEYS[0] in value
    }
    if len(sizes) > 1:
        raise ValueError("shapes in pictures of several sizes")
    return empty._replace(
        labels=tuple(labels),
        regions=tuple(regions),
        boxes=tuple(boxes),
        persons=(tuple(dots),) if dots else (),
        size=next(iter(sizes), None),
    )


def _label(value: Value, key: str, what: str) -> str:
    """The one class of a shape. Raises ValueError."""
    labels = value[key]
    if not isinstance(labels, list | tuple) or len(labels) != 1:
        names = ", ".join(map(str, labels)) if isinstance(labels, list) else ""
        raise ValueError(
            f"a {what} of several classes: {names}"
            if names
            else f"a {what} without a class: choose one"
        )
    return str(labels[0])


def _region(value: Value, canvas: Canvas) -> PaintedRegion:
    width, height = (value[k] for k in SIZE_KEYS)
    height, width = drawn_size(height, width)
    canvas.take((height, width))
    if "rle" in value:
        label = _label(value, "brushlabels", "painted region")
        return PaintedRegion(label, pack(decode_mask(value["rle"], height, width)))
    label = _label(value, "polygonlabels", "polygon")
    corners = np.array(value["points"], dtype=float) / 100 * (width, height)
    return PaintedRegion(label, pack(outlined(corners, (height, width))))


def _box(value: Value) -> DrawnBox:
    """A rectangle; of a turned one, about its corner, what surrounds it."""
    label = _label(value, "rectanglelabels", "rectangle")
    wide, high = (int(value[k]) / 100 for k in SIZE_KEYS)
    x, y = float(value["x"]) * wide, float(value["y"]) * high
    width, height = float(value["width"]) * wide, float(value["height"]) * high
    angle = math.radians(float(value.get("rotation") or 0))
    cos, sin = math.cos(angle), math.sin(angle)
    corners = np.array([(0, 0), (width, 0), (width, height), (0, height)])
    turned = corners @ np.array([[cos, sin], [-sin, cos]])
    (left, top), (right, below) = turned.min(0).tolist(), turned.max(0).tolist()
    return DrawnBox(label, (x + left, y + top, x + right, y + below))


def _is_labelled(value: object) -> bool:
    """Whether this is a shape with a class, as a tag of any name has it in JSON-MIN."""
    return isinstance(value, dict) and any(str(key).endswith("labels") for key in value)


def _from_min(empty: PictureAnnotations, task: Value, canvas: Canvas) -> PictureAnnotations:
    several = (v for v in task.values() if isinstance(v, dict) and "choices" in v)
    chosen = task.get("class", task.get("choice")) or next(several, None)
    if isinstance(chosen, dict):
        chosen = chosen.get("choices")
    labels = (
        tuple(map(str, chosen)) if isinstance(chosen, list) else (str(chosen),) if chosen else ()
    )
    try:
        drawn = [value for tag in OWN_TAGS for value in task.get(tag) or []]
        others = [
            part for tag, part in task.items() if tag not in OWN_TAGS and isinstance(part, list)
        ]
        drawn += [value for part in others for value in part if _is_labelled(value)]
        done = task.get("annotation_id") is not None
        return _of_values(empty, drawn, canvas)._replace(labels=labels, done=done)
    except (*PART_ERRORS, AttributeError) as error:
        return empty._replace(fault=f"what was drawn cannot be read ({reason_of(error)})")
