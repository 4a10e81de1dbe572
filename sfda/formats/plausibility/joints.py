"""Joints that are not x, y in pixels of their image: counted, and what they look like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from sfda.errors import Concerns
from sfda.formats.coco import is_number
from sfda.formats.plausibility.boxes import Sized, is_bbox

Floats = np.ndarray[Any, np.dtype[np.float64]]
_SLACK = 1.0  # pixels
_MOST = 0.9  # share of persons from which something is so of all
JOINT_FORMATS = ("pixels", "shares", "box-pixels", "box-shares")


class _Placed(NamedTuple):
    """Joints [N, 2] that are marked as seen, and whose they are [N], with the person's box [N, 4]
    and the image's size [N, 2], NaN where there is none.
    """

    joints: Any
    persons: Any
    boxes: Any
    sizes: Any


def joint_concerns(entries: Sequence[Mapping[str, Any]], sizes: Sized) -> Concerns:
    """What is odd about the joints of a document's annotations."""
    marked = [e for e in entries if _table(e) is not None]
    seen = _placed(marked, sizes)
    count, notes = len(seen.joints), list[str]()
    unseen = len(marked) - len(np.unique(seen.persons))
    if unseen:
        notes.append(f"{unseen} of {len(marked)} persons have no joint that is marked (v of 0)")
    if not count:
        return Concerns([], notes)
    form, words = _looks_like(seen)
    if form:
        return Concerns(
            [f"{words} If so: --joint-format {form} when the manifest is made"],
            notes,
        )
    if words:
        return Concerns([words], notes)
    out = _outside(seen.joints, seen.sizes)
    if out.any():
        of = len(np.unique(seen.persons[out]))
        notes.append(
            f"{int(out.sum())} of {count} joints, of {of} persons, lie outside of their images"
        )
    away = _persons_away(seen)
    if away:
        notes.append(f"{away} of {len(marked)} persons have no joint in their box")
    return Concerns([], notes)


def _table(entry: Mapping[str, Any]) -> Floats | None:
    """x, y, v of each joint; None where that is not what is there."""
    marked = entry.get("keypoints")
    if not isinstance(marked, list) or not marked or len(marked) % 3:
        return None
    return np.array(marked, float).reshape(-1, 3) if all(map(is_number, marked)) else None


def _placed(marked: Sequence[Mapping[str, Any]], sizes: Sized) -> _Placed:
    joints, persons, boxes, frames = [], [], [], []
    for number, entry in enumerate(marked):
        table = _table(entry)
        box = entry["bbox"] if is_bbox(entry.get("bbox")) else (np.nan,) * 4
        for x, y, v in [] if table is None else table.tolist():
            if v > 0:
                joints.append((x, y))
                persons.append(number)
                boxes.append(box)
                frames.append(sizes.get(entry["image_id"], (np.nan, np.nan)))
    return _Placed(
        np.array(joints, float).reshape(-1, 2),
        np.array(persons, int),
        np.array(boxes, float).reshape(-1, 4),
        np.array(frames, float).reshape(-1, 2),
    )


def _looks_like(seen: _Placed) -> tuple[str, str]:
    """The format that all joints are in where it is another than is meant, and what to say of
    them; of the order y, x there is no format.
    """
    joints, count = seen.joints, len(seen.joints)
    if (joints <= 0).all() and count:
        return "", ""
    large = not (seen.sizes <= 2).any()
    if large and (joints >= -0.01).all() and (joints <= 1.01).all():
        pixels = joints * np.nan_to_num(seen.sizes, nan=1)
        low, high = seen.boxes[:, :2], seen.boxes[:, :2] + seen.boxes[:, 2:]
        aside = ((pixels < low - _SLACK) | (pixels > high + _SLACK)).any(1)
        known = ~np.isnan(seen.sizes).any(1) & ~np.isnan(seen.boxes).any(1)
        if known.any() and aside[known].mean() > 1 - _MOST and not (seen.boxes <= 1.01).all():
            words = f"all {count} joints are below one pixel: shares of the person's box?"
            return "box-shares", words
        return "shares", f"all {count} joints are below one pixel: shares of the image?"
    out = _outside(joints, seen.sizes)
    turned = _outside(joints[:, ::-1], seen.sizes)
    if out.mean() >= 0.1 and not turned.any():
        return "", (
            f"{int(out.sum())} of {count} joints lie outside of their images, and none with x and "
            "y exchanged: they look like y, x; write x first"
        )
    relative = ~_outside(joints, seen.boxes[:, 2:]) & ~np.isnan(seen.boxes).any(1)
    far = (seen.boxes[:, :2] > _SLACK).any(1)
    persons = len(np.unique(seen.persons))
    if relative.all() and far.all() and _persons_away(seen) >= max(1, 0.5 * persons):
        return "box-pixels", (
            f"all {count} joints would lie in their person's box if they were counted from its "
            "corner, and now do not: are they?"
        )
    return "", ""


def _outside(joints: Floats, sizes: Floats) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """[N]: which lie beyond (0, 0) or this size; one of NaN has no end."""
    ends = np.nan_to_num(sizes, nan=np.inf)
    beyond: np.ndarray[Any, np.dtype[np.bool_]] = (joints < -_SLACK) | (joints > ends + _SLACK)
    return np.asarray(beyond.any(1))


def _persons_away(seen: _Placed) -> int:
    """How many persons with a box have no joint in it."""
    low = seen.boxes[:, :2] - _SLACK
    high = seen.boxes[:, :2] + seen.boxes[:, 2:] + _SLACK
    inside = ((seen.joints >= low) & (seen.joints <= high)).all(1)
    boxed = ~np.isnan(seen.boxes).any(1)
    return len(set(seen.persons[boxed].tolist()) - set(seen.persons[inside].tolist()))


def joints_in_pixels(
    keypoints: Sequence[float], form: str, size: tuple[float, float], box: Sequence[float]
) -> list[float]:
    """x, y, v of joints in one of the formats, in pixels of an image of this size; the person's
    `box` is in pixels.

    >>> joints_in_pixels([0.5, 0.5, 2], "shares", (48, 40), (0, 0, 48, 40))
    [24.0, 20.0, 2]
    """
    if form == "pixels":
        return list(keypoints)
    x, y, *sides = box if form.startswith("box") else (0.0, 0.0, *size)
    across, down = sides if form.endswith("shares") else (1.0, 1.0)
    out: list[float] = []
    for at in range(0, len(keypoints), 3):
        h, v, seen = keypoints[at : at + 3]
        out += [x + h * across, y + v * down, seen] if seen > 0 else [h, v, seen]
    return out
