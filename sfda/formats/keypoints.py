"""Persons out of COCO's keypoint JSON: a square crop each, and their joints by name."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from sfda.bounds.limits import PICTURE_PIXELS
from sfda.documents import cut_off
from sfda.errors import BadInput, listed
from sfda.formats.coco import Document, annotations_of, is_number
from sfda.formats.readers import Indices, Reader
from sfda.images.crops import Box, Crop, cut, square
from sfda.images.intensity_window import Picture, Raw, Window

AT = "@"  # between an image's file and the id of a person in it


class Person(NamedTuple):
    """Joints [K, 2] as (x, y) in pixels of the image, how visible each is, and the box's size."""

    joints: np.ndarray[Any, np.dtype[np.float32]]
    visible: np.ndarray[Any, np.dtype[np.float32]]  # [K]: 0 not labelled, 1 labelled
    box: Box
    area: float


@dataclass(frozen=True)
class CropReader:
    """Persons as images; without a box the person fills the image."""

    images: Reader
    boxes: tuple[Box | None, ...] = field(repr=False)
    padding: float

    def crop(self, row: int) -> Crop:
        """Where the row's crop lies in its image."""
        box = self.boxes[row]
        if box is None:
            height, width = self.images.size(row)
            return square((0.0, 0.0, float(width), float(height)), 1.0)
        return square(box, self.padding)

    def image(self, row: int, window: Window = None) -> Picture:
        """The crop of one row."""
        return cut(self.images.image(row, window), self.crop(row))

    def raw(self, row: int) -> Raw:
        """The intensities of the whole image."""
        return self.images.raw(row)

    def values(self, row: int) -> Raw:
        """Pixel values of the whole image."""
        return self.images.values(row)

    def size(self, row: int) -> tuple[int, int]:
        """(height, width) of the crop."""
        side = self.crop(row).side
        return side, side

    def grid(self, row: int) -> None:
        """None: a crop is no slice of a volume."""

    def name_of(self, row: int) -> str:
        """What to call one row in a message."""
        return self.images.name_of(row)

    def take(self, rows: Indices) -> CropReader:
        """Some of its rows, as rows of their own."""
        boxes = tuple(self.boxes[row] for row in rows.tolist())
        return CropReader(self.images.take(rows), boxes, self.padding)


def file_of(key: str) -> str:
    """The image of a person's row."""
    return key.rpartition(AT)[0] if AT in key else key


def persons_of(
    document: Document, images: Sequence[Mapping[str, Any]]
) -> tuple[list[str], list[Box | None], list[Mapping[str, Any]], list[str]]:
    """Keys, boxes and annotations of all persons of `images` in order, and every fault.

    An annotation of a crowd is left out. One without `bbox` takes the whole image. The number in a
    key is that of the person in its image, from 1.
    """
    keys, boxes, entries, faults = [], [], [], []
    for image, own in zip(images, annotations_of(document, images), strict=True):
        single = [entry for entry in own if not entry.get("iscrowd")]
        for number, entry in enumerate(single, start=1):
            key = f"{image['file_name']}{AT}{number}"
            box = entry.get("bbox")
            if box is not None and not _is_box(box):
                faults.append(
                    f"bbox of {key} is not four numbers with a size, of at most {_most_side()} "
                    f"pixels a side ({PICTURE_PIXELS.variable} raises that limit): "
                    f"{cut_off(str(box))}"
                )
                box = None
            keys.append(key)
            boxes.append(None if box is None else (*map(float, box),))
            entries.append(entry)
    return keys, boxes, entries, faults  # type: ignore[return-value]


def joints_of(
    document: Document,
    entries: Sequence[Mapping[str, Any]],
    boxes: Sequence[Box | None],
    joints: tuple[str, ...] | int | None,
) -> tuple[list[Person], list[str]]:
    """The joints of persons in the order of the manifest's `joints`, by name, and every fault."""
    named, faults = _names(document, joints)
    assert not faults or not named
    persons: list[Person] = []
    odd = []
    for entry, box in zip(entries, boxes, strict=True):
        order = named.get(entry["category_id"])
        marked = entry.get("keypoints")
        if order is None or not isinstance(marked, list) or len(marked) % 3:
            odd.append(str(entry.get("id")))
            continue
        area = entry.get("area") or 0.0
        if not all(map(is_number, (*marked, area))):
            odd.append(str(entry.get("id")))
            continue
        table = np.array(marked, np.float32).reshape(-1, 3)
        if max(order) >= len(table) or not np.isfinite(table).all():
            odd.append(str(entry.get("id")))
            continue
        own = table[order]
        wide, high = (float(v) for v in np.ptp(own[:, :2], axis=0))
        size = box or (0.0, 0.0, wide, high)
        area = float(area) or size[2] * size[3]
        persons.append(Person(own[:, :2], (own[:, 2] > 0).astype(np.float32), size, area))
    if odd:
        faults.append(f"annotations whose keypoints are not x, y, v of each joint: {listed(odd)}")
    return persons, faults


def _names(
    document: Document, joints: tuple[str, ...] | int | None
) -> tuple[dict[Any, list[int]], list[str]]:
    """For each category the place in its keypoints of every joint of the manifest."""
    if not isinstance(joints, tuple):
        return {}, ["poses need the names of their joints: give `classes` a list of names"]
    positions: dict[Any, list[int]] = {}
    faults = []
    for category in document["categories"]:
        names = [str(name) for name in (category.get("keypoints") or ())]
        lacking = [name for name in joints if name not in names]
        if lacking:
            faults.append(
                f"category '{category['name']}' has no keypoints {listed(lacking)}; it has "
                f"{listed(names) or 'none'}"
            )
        else:
            positions[category["id"]] = [names.index(name) for name in joints]
    return ({}, faults) if faults else (positions, [])


def _is_box(box: object) -> bool:
    if not isinstance(box, list | tuple) or len(box) != 4:
        return False
    if not all(map(is_number, box)):
        return False
    most = _most_side()
    return bool(0 < box[2] <= most and 0 < box[3] <= most)


def _most_side() -> int:
    """Pixels of a side of a person's box at most, since its crop is a square."""
    return math.isqrt(PICTURE_PIXELS.most)


def edges_of(document: Document) -> tuple[tuple[str, str], ...]:
    """The edges of the first category's skeleton by name; COCO counts its joints from 1."""
    category = document["categories"][0]
    names = dict(enumerate((str(name) for name in (category.get("keypoints") or ())), start=1))
    try:
        return tuple((names[a], names[b]) for a, b in (category.get("skeleton") or ()))
    except (KeyError, TypeError, ValueError) as error:
        raise BadInput(
            f"the skeleton of the document names joints that it has not ({error}): they are "
            f"counted from 1 to {len(names)}"
        ) from None
