"""What tools export: Label Studio's JSON, JSON-MIN and CSV, CVAT's COCO JSON and its own XML, and
a plain CSV.
"""

from __future__ import annotations

import io
import json
import math
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import numpy as np
from PIL import Image

from sfda.errors import BadInput
from sfda.formats.annotations import Dot, Drawn, Given, Region, alike
from sfda.formats.coco_rle import filled, painted_runs, refuse_far
from sfda.formats.cvat import from_xml
from sfda.formats.label_studio_rle import decode_brush
from sfda.formats.readers import BROKEN
from sfda.manifests.table import read_csv

Value = Mapping[str, Any]
ODD = (KeyError, ValueError, TypeError, IndexError)  # what a part of an export may lack


def read_export(path: Path) -> list[Given]:
    """Everything in an export, told apart by its content. Raises BadInput if it is none."""
    name, content = _content(path)
    if name.lower().endswith(".csv"):
        return list(_from_csv(path))
    if content.lstrip(b"\xef\xbb\xbf \r\n\t").startswith(b"<"):
        return from_xml(content, path)
    try:
        found = json.loads(content)
    except (UnicodeDecodeError, ValueError) as error:
        raise BadInput(f"{path} is neither JSON, XML nor CSV: {error}") from None
    if isinstance(found, dict) and {"images", "annotations", "categories"} <= set(found):
        try:
            return list(_from_coco(found))
        except (*ODD, AttributeError) as error:
            raise BadInput(f"{path} is no COCO JSON: {type(error).__name__} {error}") from None
    if isinstance(found, list) and all(isinstance(task, dict) for task in found):
        tasks = [_from_task(n, task) for n, task in enumerate(found, start=1)]
        return tasks if any("annotations" in task for task in found) else _together(tasks)
    raise BadInput(
        f"{path} is no export that is known: give Label Studio's JSON, JSON-MIN or CSV, CVAT's "
        "'CVAT for images 1.1', 'COCO 1.0' or 'COCO Keypoints 1.0' (the zip or what is in it), or "
        "the request's CSV filled in"
    )


def _content(path: Path) -> tuple[str, bytes]:
    """Name and bytes of the file, or of the one document in a zip."""
    try:
        if not zipfile.is_zipfile(path):
            return path.name, path.read_bytes()
        with zipfile.ZipFile(path) as archive:
            names = [n for n in archive.namelist() if n.lower().endswith((".json", ".xml"))]
            if len(names) != 1:
                raise BadInput(f"{path} holds {len(names)} JSON or XML files, one was expected")
            return names[0], archive.read(names[0])
    except BROKEN as error:
        raise BadInput(f"answers {path} cannot be read: {error}") from None


def _from_task(number: int, task: Value) -> Given:
    """A Label Studio task: `data` and `annotations`, or all in one as in JSON-MIN."""
    data = task["data"] if isinstance(task.get("data"), dict) else task
    where = f"task {task.get('id', number)}"
    row, file = (None if data.get(k) is None else str(data[k]) for k in ("row", "file"))
    empty = Given(where, row, file)
    if "annotations" not in task:
        return _from_min(empty, task)
    found = []
    try:
        for answer in task["annotations"] or []:
            if answer.get("was_cancelled"):
                continue
            values: list[Value] = [
                {**result["value"], **{k: result[k] for k in SIZE if k in result}}
                for result in answer.get("result") or []
            ]
            found.append(_of_values(empty, values)._replace(done=True))
    except (*ODD, AttributeError) as error:
        return empty._replace(fault=f"its result cannot be read ({error})")
    return _agreed(empty, found)


def _agreed(empty: Given, found: list[Given]) -> Given:
    """What several annotations of one picture say together."""
    said = [one for one in found if not one.bare] or found[:1]
    if not said:
        return empty
    if not all(alike(said[0], other) for other in said[1:]):
        return empty._replace(fault=f"{len(said)} annotations that disagree")
    return said[0]._replace(empties=len(found) - len(said) if not said[0].bare else 0)


def _together(found: list[Given]) -> list[Given]:
    """JSON-MIN has an entry an annotation: those about one picture as one answer."""
    several: dict[tuple[str | None, str | None], list[Given]] = {}
    for one in found:
        several.setdefault((one.row, one.file), []).append(one)
    joined = []
    for (row, file), own in several.items():
        if len(own) > 1 and (row or file) and all(one.done and not one.fault for one in own):
            own = [_agreed(Given(own[0].where, row, file), own)]
        joined += own
    return joined


SIZE = ("original_width", "original_height")


SHAPE = ("x", "y", "points", "rle")  # one of these says where a shape lies


def _of_values(empty: Given, values: list[Value]) -> Given:
    """What the values of Label Studio's results say together; texts and ratings say nothing."""
    labels: list[str] = []
    regions: list[Region] = []
    boxes: list[Drawn] = []
    dots: list[Dot] = []
    for value in values:
        if "choices" in value:
            labels += map(str, value["choices"])
        elif "brushlabels" in value or "polygonlabels" in value:
            regions.append(_region(value))
        elif "rectanglelabels" in value:
            boxes.append(_box(value))
        elif "keypointlabels" in value:
            (label,) = value["keypointlabels"]
            x, y = (float(value[n]) / 100 * int(value[k]) for n, k in zip("xy", SIZE, strict=True))
            dots.append(Dot(str(label), x, y))
        elif set(SHAPE) & set(value):
            raise ValueError("a shape without a class of the request's labelling interface")
    sizes = {(int(value[SIZE[1]]), int(value[SIZE[0]])) for value in values if SIZE[0] in value}
    if len(sizes) > 1:
        raise ValueError("shapes in pictures of several sizes")
    return empty._replace(
        labels=tuple(labels), regions=tuple(regions), boxes=tuple(boxes),
        people=(tuple(dots),) if dots else (), size=next(iter(sizes), None),
    )  # fmt: skip


def _region(value: Value) -> Region:
    width, height = (int(value[k]) for k in SIZE)
    if "rle" in value:
        (label,) = value["brushlabels"]
        return Region(str(label), decode_brush(value["rle"], height, width))
    (label,) = value["polygonlabels"]
    corners = np.array(value["points"], dtype=float) / 100 * (width, height)
    refuse_far(corners, (height, width))
    return Region(str(label), _filled(corners, height, width))


def _box(value: Value) -> Drawn:
    """A rectangle; of a turned one, about its corner, what surrounds it."""
    (label,) = value["rectanglelabels"]
    wide, high = (int(value[k]) / 100 for k in SIZE)
    x, y = float(value["x"]) * wide, float(value["y"]) * high
    width, height = float(value["width"]) * wide, float(value["height"]) * high
    angle = math.radians(float(value.get("rotation") or 0))
    cos, sin = math.cos(angle), math.sin(angle)
    corners = np.array([(0, 0), (width, 0), (width, height), (0, height)])
    turned = corners @ np.array([[cos, sin], [-sin, cos]])
    (left, top), (right, below) = turned.min(0).tolist(), turned.max(0).tolist()
    return Drawn(str(label), (x + left, y + top, x + right, y + below))


def _filled(corners: np.ndarray, height: int, width: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
    out = np.zeros((height, width), np.uint8)
    cv2.fillPoly(out, [np.floor(corners).astype(np.int32)], 1)
    return out.astype(bool)


def _from_min(empty: Given, task: Value) -> Given:
    given = task.get("class", task.get("choice"))
    if isinstance(given, dict):
        given = given.get("choices")
    labels = tuple(map(str, given)) if isinstance(given, list) else (str(given),) if given else ()
    try:
        drawn = [value for tag in ("mask", "box", "joint") for value in task.get(tag) or []]
        done = task.get("annotation_id") is not None
        return _of_values(empty, drawn)._replace(labels=labels, done=done)
    except (*ODD, AttributeError) as error:
        return empty._replace(fault=f"what was drawn cannot be read ({error})")


def _from_coco(found: Value) -> Iterator[Given]:
    names = {c["id"]: str(c["name"]) for c in found["categories"]}
    joints = {c["id"]: [str(n) for n in c.get("keypoints", ())] for c in found["categories"]}
    parts: dict[Any, list[Value]] = {}
    for annotation in found["annotations"]:
        parts.setdefault(annotation["image_id"], []).append(annotation)
    known = {image["id"] for image in found["images"]}
    for stray in sorted(set(parts) - known, key=str):
        yield Given(f"image {stray}", None, None, fault="annotations of an image not in the file")
    for image in found["images"]:
        file, row = str(image["file_name"]), image.get("row")
        size = (int(image["height"]), int(image["width"]))
        labels, regions, boxes, people, fault = [], [], [], [], None
        for annotation in parts.get(image["id"], []):
            label = names.get(annotation["category_id"])
            if label is None:
                fault = f"category {annotation['category_id']} has no name"
                continue
            try:
                if annotation.get("keypoints"):
                    if dots := _dots(annotation, joints[annotation["category_id"]]):
                        people.append(dots)
                    continue
                if annotation.get("bbox"):
                    x, y, width, height = map(float, annotation["bbox"])
                    boxes.append(Drawn(label, (x, y, x + width, y + height)))
                bits = _bits(annotation.get("segmentation"), size)
            except ODD as error:
                fault = f"its annotation cannot be read ({error})"
                continue
            if bits is None or float(bits.mean()) > 0.98:  # a box around all, as a polygon
                labels.append(label)
            if bits is not None:
                regions.append(Region(label, bits))
        yield Given(
            file, None if row is None else str(row), file, tuple(dict.fromkeys(labels)),
            tuple(regions), tuple(boxes), tuple(people), size=size, fault=fault,
        )  # fmt: skip


def _dots(annotation: Value, names: list[str]) -> tuple[Dot, ...]:
    table = np.array(annotation["keypoints"], float).reshape(-1, 3)
    if len(table) != len(names):
        raise ValueError(f"{len(table)} key points of {len(names)}")
    return tuple(
        Dot(name, float(x), float(y)) for name, (x, y, v) in zip(names, table, strict=True) if v > 0
    )


def _bits(where: Any, size: tuple[int, int]) -> np.ndarray[Any, np.dtype[np.bool_]] | None:
    """COCO's polygons, or its run lengths, as pixels."""
    if not where:
        return None
    if not isinstance(where, dict):
        return filled(where, size)
    if tuple(where.get("size", size)) != size:
        raise ValueError(f"run lengths of {where['size']} pixels, the picture has {list(size)}")
    return painted_runs(where["counts"], size)


def _from_csv(path: Path) -> Iterator[Given]:
    rows, header = read_csv(path)
    if not {"class", "mask", "joint"} & set(header) or not {"row", "file", "index"} & set(header):
        raise BadInput(
            f"{path} needs a column row, file or index, and the columns of the request's CSV: "
            f"class; mask; class, x, y, width, height; or joint, x, y. It has {', '.join(header)}"
        )
    if {"joint", "x", "y"} <= set(header) or {"class", "x", "y", "width", "height"} <= set(header):
        yield from _from_lines(rows)
        return
    for line, row in enumerate(rows, start=2):
        where = f"line {line}"
        ids = _ids(row)
        if label := row.get("class"):
            yield Given(where, *ids, labels=(label,))
        elif name := row.get("mask"):
            try:
                content = (path.parent / PurePosixPath(name)).read_bytes()
                mask = np.asarray(Image.open(io.BytesIO(content)))
            except (OSError, ValueError) as error:
                yield Given(where, *ids, fault=f"mask {name} cannot be read ({error})")
                continue
            fits = mask.ndim == 2 and mask.dtype == np.uint8
            fault = None if fits else f"mask {name} is no 8-bit image of class indices"
            yield Given(where, *ids, mask=mask if fits else None, fault=fault)
        else:
            yield Given(where, *ids)


def _from_lines(rows: list[dict[str, str]]) -> Iterator[Given]:
    """A line a box or a joint: those of one picture are one answer."""
    found: dict[tuple[str | None, str | None], list[tuple[int, dict[str, str]]]] = {}
    for line, row in enumerate(rows, start=2):
        found.setdefault(_ids(row), []).append((line, row))
    for ids, lines in found.items():
        boxes, dots, fault = [], [], None
        for line, row in lines:
            try:
                if "joint" in row:
                    if row["x"] or row["y"]:
                        dots.append(Dot(row["joint"], float(row["x"]), float(row["y"])))
                elif row["class"]:
                    x, y, width, height = (float(row[n]) for n in ("x", "y", "width", "height"))
                    boxes.append(Drawn(row["class"], (x, y, x + width, y + height)))
            except ValueError as error:
                fault = f"line {line}: {error}"
        people = (tuple(dots),) if dots else ()
        where = f"line {lines[0][0]}"
        yield Given(where, *ids, boxes=tuple(boxes), people=people, fault=fault)


def _ids(row: dict[str, str]) -> tuple[str | None, str | None]:
    return row.get("row") or None, row.get("file") or row.get("index") or None
