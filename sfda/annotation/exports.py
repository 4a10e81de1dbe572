"""What tools export, told apart by its content: Label Studio's JSON, JSON-MIN and CSV, CVAT's COCO
JSON and its own XML, and a plain CSV.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from sfda.bounds.files import Unreadable, check_regular, read_bounded, read_member, zip_opened
from sfda.bounds.limits import EXPORT_BYTES, PICTURE_BYTES
from sfda.documents import cut_off, parse_json
from sfda.errors import BadInput
from sfda.formats.annotations import (
    PART_ERRORS,
    Canvas,
    DrawnBox,
    PackedMask,
    PictureAnnotations,
    PlacedJoint,
    pack,
    reason_of,
)
from sfda.formats.cvat import from_coco, from_xml
from sfda.formats.images import size_of_bytes, value_bytes
from sfda.formats.label_studio import read_tasks
from sfda.formats.readers import BROKEN
from sfda.formats.table import Table, read_csv
from sfda.sandbox.crossing import inside, read_within


def read_export(path: Path) -> list[PictureAnnotations]:
    """Everything in an export, told apart by its content. Raises BadInput if it is none."""
    name, content = _content(path)
    if name.lower().endswith(".csv"):
        return list(_from_csv(path))
    if content.lstrip(b"\xef\xbb\xbf \r\n\t").startswith(b"<"):
        return from_xml(content, path)
    try:
        document: Any = parse_json(content)
    except Unreadable as error:
        raise BadInput(f"{path} is neither JSON, XML nor CSV: {error}") from None
    if isinstance(document, dict) and {"images", "annotations", "categories"} <= set(document):
        try:
            return list(from_coco(document))
        except (*PART_ERRORS, AttributeError) as error:
            raise BadInput(f"{path} is no COCO JSON: {reason_of(error)}") from None
    if isinstance(document, list) and all(isinstance(task, dict) for task in document):
        return read_tasks(document)
    raise BadInput(
        f"{path} is no export that is known: give Label Studio's JSON, JSON-MIN or CSV, CVAT's "
        "'CVAT for images 1.1', 'COCO 1.0' or 'COCO Keypoints 1.0' (the zip or what is in it), or "
        "the request's CSV filled in"
    )


def _content(path: Path) -> tuple[str, bytes]:
    """Name and bytes of the file, or of the one document in a zip."""
    try:
        check_regular(path)
        if not zipfile.is_zipfile(path):
            return path.name, read_bounded(path, EXPORT_BYTES)
        with zip_opened(path) as archive:
            names = [n for n in archive.namelist() if n.lower().endswith((".json", ".xml"))]
            if len(names) != 1:
                raise BadInput(f"{path} holds {len(names)} JSON or XML files, one was expected")
            return names[0], read_member(archive, names[0], EXPORT_BYTES)
    except BROKEN as error:
        raise BadInput(f"answers {path} cannot be read: {error}") from None


def _from_csv(path: Path) -> Iterator[PictureAnnotations]:
    rows, header = read_csv(path)
    kinds, keys = {"class", "classes", "mask", "joint"}, {"row", "file", "index"}
    if not kinds & set(header) or not keys & set(header):
        raise BadInput(
            f"{path} needs a column row, file or index, and the columns of the request's CSV: "
            "class; classes; mask; class, x, y, width, height; or joint, x, y. It has "
            f"{cut_off(', '.join(header))}"
        )
    if {"joint", "x", "y"} <= set(header) or {"class", "x", "y", "width", "height"} <= set(header):
        yield from _from_lines(rows)
        return
    canvas, masks = Canvas(), dict[str, PackedMask | str]()
    for line, row in enumerate(rows, start=2):
        where = f"line {line}"
        ids = _ids(row)
        if label := row.get("class") or row.get("classes"):
            yield PictureAnnotations(where, *ids, labels=_chosen(label))
        elif name := row.get("mask"):
            if name not in masks:
                masks[name] = _mask(path.parent, name, canvas)
            mask = masks[name]
            if isinstance(mask, str):
                yield PictureAnnotations(where, *ids, fault=f"mask {name} {mask}")
            else:
                yield PictureAnnotations(where, *ids, mask=mask)
        else:
            yield PictureAnnotations(where, *ids)


def _mask(folder: Path, name: str, canvas: Canvas) -> PackedMask | str:
    """The mask in a file below a folder, or what is wrong with it."""
    try:
        content = read_within(*inside(folder, name), limit=PICTURE_BYTES)
        canvas.take(size_of_bytes(content))
        mask = value_bytes(content)
    except BROKEN as error:
        return f"cannot be read ({error})"
    if mask.ndim != 2 or mask.dtype != np.uint8:
        return "is no 8-bit image of class indices"
    return pack(mask)


def _chosen(label: str) -> tuple[str, ...]:
    """A cell of labels; several choices are in Label Studio's CSV a JSON of their own.

    >>> _chosen("cat"), _chosen('{"choices": ["cat", "dog"]}')
    (('cat',), ('cat', 'dog'))
    """
    try:
        several = parse_json(label)["choices"] if label.startswith("{") else None
    except (ValueError, KeyError, TypeError):
        several = None
    return tuple(map(str, several)) if isinstance(several, list) else (label,)


def _from_lines(rows: Table) -> Iterator[PictureAnnotations]:
    """A line a box or a joint: those of one picture are one answer."""
    lines_of: dict[tuple[str | None, str | None], list[tuple[int, dict[str, str]]]] = {}
    for line, row in enumerate(rows, start=2):
        lines_of.setdefault(_ids(row), []).append((line, row))
    for ids, lines in lines_of.items():
        boxes, dots, faults = [], [], list[str]()
        for line, row in lines:
            try:
                if "joint" in row:
                    if row["x"] or row["y"]:
                        dots.append(PlacedJoint(row["joint"], _number(row, "x"), _number(row, "y")))
                elif row["class"]:
                    x, y, width, height = (_number(row, n) for n in ("x", "y", "width", "height"))
                    boxes.append(DrawnBox(row["class"], (x, y, x + width, y + height)))
            except ValueError as error:
                faults.append(f"line {line}: {error}")
        persons = (tuple(dots),) if dots else ()
        where = f"line {lines[0][0]}"
        fault = "; ".join(faults) or None
        yield PictureAnnotations(where, *ids, boxes=tuple(boxes), persons=persons, fault=fault)


def _number(row: dict[str, str], column: str) -> float:
    """The number in a cell, with a point or a comma. Raises ValueError."""
    text = row[column].strip()
    try:
        return float(text.replace(",", ".") if text.count(",") == 1 else text)
    except ValueError:
        raise ValueError(f"{column} is {cut_off(repr(text))}, which is no number") from None


def _ids(row: dict[str, str]) -> tuple[str | None, str | None]:
    return row.get("row") or None, row.get("file") or row.get("index") or None
