"""Boxes out of COCO's JSON: what a split says of its images, checked by name."""

from __future__ import annotations

import functools
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sfda.bounds.files import read_bounded
from sfda.bounds.limits import EXPORT_BYTES
from sfda.building_blocks.boxes import BoxLabels
from sfda.documents import parse_json
from sfda.errors import BadInput, listed
from sfda.formats.readers import Reader

Document = Mapping[str, Any]
IDS = (
    ("images", "id"),
    ("annotations", "image_id"),
    ("annotations", "category_id"),
    ("categories", "id"),
)
LARGEST_ID = 1 << 53  # from 2^61 on any number of them can have one hash
OUTLINE_KEY = "segmentation"  # of an annotation: polygons, or run lengths
SMALLEST = 1e-2  # pixels: narrower boxes have no shape to learn


@dataclass(frozen=True)
class BoxTable:
    """The boxes of every row of a split, and what was left out of them."""

    rows: tuple[BoxLabels, ...] = field(repr=False)
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> BoxLabels:
        return self.rows[row]


def read_coco(path: Path) -> Document:
    """The document at `path`: its images, annotations and categories. Raises BadInput."""
    try:
        stat = path.stat()
        return _read(path, stat.st_mtime_ns, stat.st_size)
    except FileNotFoundError:
        raise BadInput(f"no annotations at {path}") from None
    except (OSError, ValueError) as error:
        raise BadInput(f"{path} cannot be read as COCO JSON: {error}") from None


@functools.lru_cache(maxsize=4)
def _read(path: Path, _changed: int, _size: int) -> Document:
    document: Any = parse_json(read_bounded(path, EXPORT_BYTES).decode("utf-8-sig"))
    lacking = [
        key
        for key in ("images", "annotations", "categories")
        if not isinstance(document, dict) or not isinstance(document.get(key), list)
    ]
    if lacking:
        raise ValueError(f"it has no list `{lacking[0]}`")
    faults = [
        f"an entry of `{part}` has no {key}"
        for part, keys in (
            ("images", ("id", "file_name")),
            ("annotations", ("image_id", "category_id")),
            ("categories", ("id", "name")),
        )
        for key in keys
        if any(not isinstance(entry, dict) or key not in entry for entry in document[part])
    ]
    if not faults:
        faults = _odd_values(document)
    faults = faults or _names_lacking(document)
    if faults:
        raise ValueError("; ".join(faults))
    whole: Document = document
    return whole


def _names_lacking(document: Document) -> list[str]:
    """Categories that are called nothing, such as null."""
    nameless = [
        f"{category['id']} ({category['name']!r})"
        for category in document["categories"]
        if isinstance(category["name"], bool)
        or not isinstance(category["name"], str | int | float)
        or not str(category["name"]).strip()
    ]
    fault = f"categories without a name: id {listed(nameless)}; give each one, or take it out"
    return [fault] if nameless else []


def _odd_values(document: Document) -> list[str]:
    """Values of a kind that no id, size or flag may be."""
    faults = id_faults(document)
    for image in document["images"]:
        faults += [
            f"{side} of {image['file_name']} is no number: {image[side]!r}"
            for side in ("width", "height")
            if image.get(side) is not None and not is_number(image[side])
        ]
        if not isinstance(image.get("split", ""), str):
            faults.append(f"split of {image['file_name']} is no text: {image['split']!r}")
    crowds = {str(e.get("iscrowd")) for e in document["annotations"] if _odd_flag(e.get("iscrowd"))}
    if crowds:
        faults.append(f"iscrowd is to be 0 or 1, not {listed(sorted(crowds))}")
    return faults if len(faults) < 6 else [*faults[:5], f"and {len(faults) - 5} more"]


def id_faults(document: Document) -> list[str]:
    """Ids that are neither a text nor a whole number that is not very large."""
    return [
        f"{key} of {part} is to be a text, or a whole number of at most 2^53"
        for part, key in IDS
        if not all(_is_id(entry[key]) for entry in document[part])
    ]


def _is_id(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | str):
        return False
    return isinstance(value, str) or abs(value) <= LARGEST_ID


def _odd_flag(value: object) -> bool:
    return not (value is None or (isinstance(value, int | float) and value in (0, 1)))


def size_faults(images: Sequence[Mapping[str, Any]], sizes: Reader) -> list[str]:
    """The fault of images that are not of the size that the document states, if it is one: their
    boxes would be cut off, or lie elsewhere. `sizes` are the images in the same order.
    """
    odd = []
    for row, image in enumerate(images):
        width, height = stated_size(image)
        if width is None or height is None:
            continue
        have = sizes.size(row)
        if have != (height, width):
            text = f"{image['file_name']} (is {have[1]} x {have[0]}, not {width:g} x {height:g})"
            odd.append(text)
    return [f"images of another size than the annotations state: {listed(odd)}"] if odd else []


def stated_size(image: Mapping[str, Any]) -> tuple[float | None, float | None]:
    """Width and height that the document states of an image; 0 states nothing."""
    width, height = (image.get(side) or 0 for side in ("width", "height"))
    return (width if width > 0 else None), (height if height > 0 else None)


def images_of(document: Document, where: str | None) -> list[Mapping[str, Any]]:
    """The images of the document, or those whose `split` says `where`."""
    return [image for image in document["images"] if where is None or image.get("split") == where]


def annotations_of(
    document: Document, images: Sequence[Mapping[str, Any]]
) -> list[list[Mapping[str, Any]]]:
    """The annotations of each of `images`."""
    by_image: dict[Any, list[Mapping[str, Any]]] = defaultdict(list)
    for entry in document["annotations"]:
        by_image[entry["image_id"]].append(entry)
    return [by_image[image["id"]] for image in images]


def document_faults(document: Document) -> list[str]:
    """What is wrong with ids: twice, or naming nothing."""
    faults = []
    for part, key in (("images", "id"), ("images", "file_name"), ("categories", "id")):
        counts = Counter(str(entry[key]) for entry in document[part])
        if twice := sorted(name for name, times in counts.items() if times > 1):
            faults.append(f"{part} that share one {key}: {listed(twice)}")
    known = {image["id"] for image in document["images"]}
    if stray := {a["image_id"] for a in document["annotations"]} - known:
        hint = ""
        if set(map(str, stray)) & set(map(str, known)):
            hint = "; an id is a number or a text in both places"
        names_of_stray = sorted(map(repr, stray))
        faults.append(f"annotations of images that are not listed: {listed(names_of_stray)}{hint}")
    return faults


def class_indices(
    document: Document, classes: tuple[str, ...] | int | None
) -> tuple[dict[Any, int], list[str]]:
    """The index in `classes` of every category id, by name, and every mismatch."""
    names = {category["id"]: str(category["name"]) for category in document["categories"]}
    if not isinstance(classes, tuple):
        return {}, ["boxes need the names of their classes: give `classes` a list of names"]
    index_of = {name: i for i, name in enumerate(classes)}
    used = {a["category_id"] for a in document["annotations"]}
    faults = []
    if unknown := sorted(str(u) for u in used if u not in names):
        faults.append(f"annotations of categories that are not listed: {listed(unknown)}")
    if foreign := sorted(names[u] for u in used if u in names and names[u] not in index_of):
        faults.append(
            f"categories that are not among the manifest's `classes`: {listed(foreign)} "
            f"(classes are {listed(classes)})"
        )
    return {i: index_of[name] for i, name in names.items() if name in index_of}, faults


def box_table(
    document: Document,
    images: Sequence[Mapping[str, Any]],
    classes: tuple[str, ...] | int | None,
) -> tuple[BoxTable, list[str]]:
    """The boxes of `images` in order, and every fault.

    Boxes without an area, or wholly outside of an image whose size is stated, are left out and
    counted in the table's notes; those that reach beyond are clipped.
    """
    index_of, faults = class_indices(document, classes)
    dropped: Counter[str] = Counter()
    rows, odd = [], []
    for image, entries in zip(images, annotations_of(document, images), strict=True):
        own_boxes = []
        for entry in entries:
            if entry["category_id"] not in index_of:
                continue
            corners = _corners(entry.get("bbox"))
            if corners is None:
                odd.append(f"{image['file_name']} ({entry.get('bbox')})")
                continue
            clipped = _clipped(corners, image)
            if clipped[2] - clipped[0] < SMALLEST or clipped[3] - clipped[1] < SMALLEST:
                dropped["without an area, or outside of their image"] += 1
                continue
            own_boxes.append(
                (clipped, index_of[entry["category_id"]], bool(entry.get("iscrowd", 0)))
            )
        rows.append(_labels(own_boxes))
    if odd:
        faults.append(f"bbox is not four numbers x, y, width, height: {listed(odd)}")
    notes = [f"{count} boxes {what} are left out" for what, count in dropped.items()]
    crowds = sum(int(row.crowd.sum()) for row in rows)
    if crowds:
        notes.append(f"{crowds} boxes of crowds are not learnt from, and ignored where they match")
    empty = sum(not len(row.boxes) for row in rows)
    if empty:
        notes.append(f"{empty} images hold no box")
    return BoxTable(tuple(rows), tuple(notes)), faults


def _corners(bbox: object) -> tuple[float, float, float, float] | None:
    if not isinstance(bbox, list | tuple) or len(bbox) != 4:
        return None
    if not all(map(is_number, bbox)):
        return None
    x, y, width, height = map(float, bbox)
    return x, y, x + width, y + height


def is_number(value: object) -> bool:
    """Whether this is a number that a computation can take."""
    try:
        return isinstance(value, int | float) and math.isfinite(value)
    except OverflowError:
        return False


def _clipped(corners: Sequence[float], image: Mapping[str, Any]) -> tuple[float, ...]:
    width, height = stated_size(image)
    limits = (width, height, width, height)
    return tuple(
        max(0.0, v) if limit is None else min(max(0.0, v), float(limit))
        for v, limit in zip(corners, limits, strict=True)
    )


def _labels(boxes: Sequence[tuple[tuple[float, ...], int, bool]]) -> BoxLabels:
    return BoxLabels(
        np.array([box for box, _, _ in boxes], np.float32).reshape(-1, 4),
        np.array([label for _, label, _ in boxes], np.int64),
        np.array([crowd for _, _, crowd in boxes], np.bool_),
    )
