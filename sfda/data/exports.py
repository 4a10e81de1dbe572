"""What tools export: Label Studio's JSON, JSON-MIN and CSV, CVAT's COCO JSON, a plain CSV."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import cv2
import numpy as np
from PIL import Image

from sfda.data.brush import decode_brush
from sfda.data.masks import IGNORE, Mask
from sfda.data.rows import read_csv
from sfda.errors import BadInput


class Region(NamedTuple):
    """A painted part of an image: its class, and where."""

    label: str
    bits: np.ndarray[Any, np.dtype[np.bool_]]  # [H, W]


class Given(NamedTuple):
    """What an export says of one image. Nothing in it: it was left out or skipped."""

    where: str  # for messages
    row: str | None
    file: str | None
    labels: tuple[str, ...] = ()
    regions: tuple[Region, ...] = ()
    mask: Mask | None = None  # indices of the request's classes
    fault: str | None = None


def read_export(path: Path) -> list[Given]:
    """Everything in an export, told apart by its content. Raises BadInput if it is none."""
    name, content = _content(path)
    if name.lower().endswith(".csv"):
        return list(_from_csv(path))
    try:
        found = json.loads(content)
    except (UnicodeDecodeError, ValueError) as error:
        raise BadInput(f"{path} is neither JSON nor CSV: {error}") from None
    if isinstance(found, dict) and {"images", "annotations", "categories"} <= set(found):
        return list(_from_coco(found))
    if isinstance(found, list) and all(isinstance(task, dict) for task in found):
        return [_from_task(n, task) for n, task in enumerate(found, start=1)]
    raise BadInput(
        f"{path} is no export that is known: give Label Studio's JSON, JSON-MIN or CSV, CVAT's "
        "'COCO 1.0' (the zip or its JSON), or the request's CSV filled in"
    )


def _content(path: Path) -> tuple[str, bytes]:
    """Name and bytes of the file, or of the one JSON in a zip."""
    try:
        if not zipfile.is_zipfile(path):
            return path.name, path.read_bytes()
        with zipfile.ZipFile(path) as archive:
            names = [n for n in archive.namelist() if n.lower().endswith(".json")]
            if len(names) != 1:
                raise BadInput(f"{path} holds {len(names)} JSON files, one was expected")
            return names[0], archive.read(names[0])
    except (OSError, zipfile.BadZipFile) as error:
        raise BadInput(f"answers {path} cannot be read: {error}") from None


def _from_task(number: int, task: Mapping[str, Any]) -> Given:
    """A Label Studio task: `data` and `annotations`, or all in one as in JSON-MIN."""
    data = task["data"] if isinstance(task.get("data"), dict) else task
    where = f"task {task.get('id', number)}"
    row, file = (None if data.get(k) is None else str(data[k]) for k in ("row", "file"))
    if "annotations" not in task:
        return _from_min(where, row, file, task)
    answers = [a for a in task["annotations"] or [] if not a.get("was_cancelled")]
    found = []
    for answer in answers:
        try:
            found.append(_of_results(answer.get("result") or []))
        except (KeyError, ValueError, TypeError) as error:
            return Given(where, row, file, fault=f"its result cannot be read ({error})")
    found = [(labels, regions) for labels, regions in found if labels or regions]
    if not found:
        return Given(where, row, file)
    if len(found) > 1 and not all(_alike(found[0], other) for other in found[1:]):
        return Given(where, row, file, fault=f"{len(found)} annotations that disagree")
    return Given(where, row, file, labels=found[0][0], regions=found[0][1])


def _alike(one: Any, other: Any) -> bool:
    same = one[0] == other[0] and len(one[1]) == len(other[1])
    return same and all(
        a.label == b.label and np.array_equal(a.bits, b.bits)
        for a, b in zip(one[1], other[1], strict=True)
    )


def _of_results(results: list[Mapping[str, Any]]) -> tuple[tuple[str, ...], tuple[Region, ...]]:
    labels: list[str] = []
    regions: list[Region] = []
    for result in results:
        value = result["value"]
        if "choices" in value:
            labels += map(str, value["choices"])
        elif "brushlabels" in value or "polygonlabels" in value:
            size = {k: result[k] for k in ("original_height", "original_width")}
            regions.append(_region({**value, **size}))
    return tuple(labels), tuple(regions)


def _region(value: Mapping[str, Any]) -> Region:
    height, width = int(value["original_height"]), int(value["original_width"])
    if "rle" in value:
        (label,) = value["brushlabels"]
        return Region(str(label), decode_brush(value["rle"], height, width))
    (label,) = value["polygonlabels"]
    corners = np.array(value["points"], dtype=float) / 100 * (width, height)
    return Region(str(label), _filled(corners, height, width))


def _filled(corners: np.ndarray, height: int, width: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
    out = np.zeros((height, width), np.uint8)
    cv2.fillPoly(out, [np.floor(corners).astype(np.int32)], 1)
    return out.astype(bool)


def _from_min(where: str, row: str | None, file: str | None, task: Mapping[str, Any]) -> Given:
    given = task.get("class", task.get("choice"))
    if isinstance(given, dict):
        given = given.get("choices")
    labels = tuple(map(str, given)) if isinstance(given, list) else (str(given),) if given else ()
    try:
        regions = tuple(_region(value) for value in task.get("mask") or [])
    except (KeyError, ValueError, TypeError) as error:
        return Given(where, row, file, fault=f"its mask cannot be read ({error})")
    return Given(where, row, file, labels=labels, regions=regions)


def _from_coco(found: Mapping[str, Any]) -> Iterator[Given]:
    from pycocotools import mask as codec

    names = {c["id"]: str(c["name"]) for c in found["categories"]}
    parts: dict[Any, list[Mapping[str, Any]]] = {}
    for annotation in found["annotations"]:
        parts.setdefault(annotation["image_id"], []).append(annotation)
    known = {image["id"] for image in found["images"]}
    for stray in sorted(set(parts) - known, key=str):
        yield Given(f"image {stray}", None, None, fault="annotations of an image not in the file")
    for image in found["images"]:
        file = str(image["file_name"])
        height, width = int(image["height"]), int(image["width"])
        labels, regions, fault = [], [], None
        for annotation in parts.get(image["id"], []):
            label = names.get(annotation["category_id"])
            if label is None:
                fault = f"category {annotation['category_id']} has no name"
                continue
            where = annotation.get("segmentation")
            if not where:
                labels.append(label)
                continue
            try:
                if isinstance(where, dict):
                    packed = isinstance(where["counts"], str | bytes)
                    code = where if packed else codec.frPyObjects(where, height, width)
                else:
                    code = codec.merge(codec.frPyObjects(where, height, width))
                bits = codec.decode(code).astype(bool)
            except (KeyError, ValueError, TypeError, IndexError) as error:
                fault = f"its segmentation cannot be read ({error})"
                continue
            whole = float(bits.mean()) > 0.98  # a box around all of the image, as a polygon
            if whole:
                labels.append(label)
            regions.append(Region(label, bits))
        yield Given(
            file, image.get("row"), file, tuple(dict.fromkeys(labels)), tuple(regions), fault=fault
        )


def _from_csv(path: Path) -> Iterator[Given]:
    rows, header = read_csv(path)
    if not {"class", "mask"} & set(header) or not {"row", "file", "index"} & set(header):
        raise BadInput(
            f"{path} needs a column row, file or index, and a column class or mask; it has "
            f"{', '.join(header)}"
        )
    for line, row in enumerate(rows, start=2):
        where = f"line {line}"
        ids = (row.get("row") or None, row.get("file") or row.get("index") or None)
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


def painted(given: Given, classes: tuple[str, ...], size: tuple[int, int]) -> Mask:
    """Regions as one mask of class indices: later ones lie above. What nobody painted is
    `background` where there is such a class, and does not count otherwise.
    """
    if given.mask is not None:
        return given.mask
    rest = classes.index("background") if "background" in classes else IGNORE
    mask = np.full(size, rest, np.uint8)
    for region in given.regions:
        mask[region.bits] = classes.index(region.label)
    return mask
