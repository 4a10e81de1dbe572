"""Built-in data for detection: drawn trays of parts, under one light and under another.

The source are gears, bolts and washers on a plain tray. The target are other trays, photographed
with another camera: a warm light from one side, less contrast, blur and noise. The shift was set by
what it costs a small detector that learnt the source.
"""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import yaml

from sfda.data.digests import bytes_digest
from sfda.data.writing import put
from sfda.errors import BadInput

SIZE = 64  # pixels, height and width
CLASSES = ("gear", "bolt", "washer")
SOURCE = {"train": 240, "val": 60}
TARGET = {"adapt": 160, "test": 80}
CONTRAST = 0.6  # of the source's
WARM = np.array([1.12, 1.0, 0.8])  # of red, green and blue
GRAIN = 6.0  # standard deviation of the noise, in levels of 255
EPOCH = (1980, 1, 1, 0, 0, 0)  # in the zip: the same bytes whenever they are made


class Tray(NamedTuple):
    """An image uint8 [64, 64, 3], boxes [n, 4] as x1, y1, x2, y2 and classes [n]."""

    image: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray


def in_the_lab(number: int) -> Tray:
    """One tray of the source domain."""
    rng = np.random.default_rng([2027, 0, number])
    tray = _drawn(rng)
    return tray._replace(image=_bytes(tray.image + rng.normal(0, 4, tray.image.shape)))


def in_the_shop(number: int) -> Tray:
    """One tray of the target domain."""
    rng = np.random.default_rng([2027, 1, number])
    tray = _drawn(rng)
    image = tray.image
    left, right = rng.permutation([0.75, 1.0]).tolist()
    side = np.linspace(left, right, SIZE)[None, :, None]
    image = (110 + CONTRAST * (image - 110)) * side * WARM
    image = cv2.GaussianBlur(image, (0, 0), 0.8)
    return tray._replace(image=_bytes(image + rng.normal(0, GRAIN, image.shape)))


def write_demo(folder: Path) -> tuple[Path, Path]:
    """Write both domains as zips with COCO files and manifests: (source, target) manifests.

    The same bytes every time; what is there is replaced. Raises BadInput if it cannot be written.
    """
    files = _files(folder, "parts_lab", SOURCE) | _files(folder, "parts_shop", TARGET)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        put(files)
    except OSError as error:
        raise BadInput(f"cannot write the demo's data to {folder}: {error}") from None
    return folder / "parts_lab.yaml", folder / "parts_shop.yaml"


def _drawn(rng: np.random.Generator) -> Tray:
    """A tray with one to five parts that hardly overlap; a few trays are empty."""
    ground = rng.uniform(165, 205)
    image = np.full((SIZE, SIZE, 3), ground) * np.array([0.98, 1.0, 1.02])
    boxes: list[tuple[int, int, int, int]] = []
    labels: list[int] = []
    for _ in range(int(rng.integers(0, 6)) or int(rng.integers(0, 2))):
        label, half = int(rng.integers(0, 3)), int(rng.integers(5, 10))
        x, y = (int(v) for v in rng.integers(half + 1, SIZE - half - 1, 2))
        mask = np.zeros((SIZE, SIZE), np.uint8)
        (_gear, _bolt, _washer)[label](mask, x, y, half, rng)
        found = _around(mask)
        if any(_overlap(found, other) > 0.15 for other in boxes):
            continue
        tone = np.array(((70, 75, 85), (95, 90, 80), (60, 60, 60))[label]) + rng.normal(0, 10)
        image[mask > 0] = tone
        boxes.append(found)
        labels.append(label)
    return Tray(image, np.array(boxes, float).reshape(-1, 4), np.array(labels, int))


def _gear(mask: np.ndarray, x: int, y: int, half: int, rng: np.random.Generator) -> None:
    turn = rng.uniform(0, np.pi)
    cv2.circle(mask, (x, y), int(half * 0.7), 1, -1)
    for angle in turn + np.arange(6) * np.pi / 3:
        tip = (round(x + half * np.cos(angle)), round(y + half * np.sin(angle)))
        cv2.line(mask, (x, y), tip, 1, max(2, half // 3))


def _bolt(mask: np.ndarray, x: int, y: int, half: int, rng: np.random.Generator) -> None:
    angle = rng.uniform(0, 2 * np.pi)
    step = half * np.array([np.cos(angle), np.sin(angle)])
    head, foot = np.array([x, y]) + step, np.array([x, y]) - step
    top, end = (tuple(np.round(p).astype(int).tolist()) for p in (head, foot))
    cv2.line(mask, top, end, 1, 3)
    cv2.circle(mask, top, max(4, half // 2), 1, -1)


def _washer(mask: np.ndarray, x: int, y: int, half: int, rng: np.random.Generator) -> None:
    cv2.circle(mask, (x, y), half, 1, -1)
    cv2.circle(mask, (x, y), int(half * rng.uniform(0.4, 0.55)), 0, -1)


def _around(mask: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _overlap(one: tuple[int, ...], other: tuple[int, ...]) -> float:
    wide = min(one[2], other[2]) - max(one[0], other[0])
    high = min(one[3], other[3]) - max(one[1], other[1])
    if wide <= 0 or high <= 0:
        return 0.0
    areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (one, other)]
    return wide * high / min(areas)


def _bytes(image: np.ndarray) -> np.ndarray:
    return image.clip(0, 255).round().astype(np.uint8)


def _files(folder: Path, name: str, sizes: dict[str, int]) -> dict[Path, bytes]:
    """The zip, its COCO file and its manifest."""
    draw = in_the_lab if name == "parts_lab" else in_the_shop
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
        for split in [split for split, count in sizes.items() for _ in range(count)]:
            number = len(images) + 1
            tray, file = draw(number), f"{number:04d}.png"
            done, png = cv2.imencode(".png", tray.image[..., ::-1])
            assert done
            archive.writestr(zipfile.ZipInfo(file, EPOCH), png.tobytes())
            images.append(
                {"id": number, "file_name": file, "width": SIZE, "height": SIZE, "split": split}
            )
            for (x1, y1, x2, y2), label in zip(tray.boxes, tray.labels, strict=True):
                annotations.append(
                    {
                        "id": len(annotations) + 1, "image_id": number,
                        "category_id": int(label) + 1, "bbox": [x1, y1, x2 - x1, y2 - y1],
                        "area": (x2 - x1) * (y2 - y1), "iscrowd": 0,
                    }
                )  # fmt: skip
    categories = [{"id": i, "name": c} for i, c in enumerate(CLASSES, start=1)]
    document = {"images": images, "annotations": annotations, "categories": categories}
    table = json.dumps(document).encode()
    entry = {"rows": f"{name}.json", "sha256": bytes_digest(table)}
    manifest = {
        "name": name.replace("_", "/"),
        "problem": "detection",
        "version": 1,
        "origin": "drawn by sfda",
        "root": ".",
        "classes": list(CLASSES),
        "archive": {"file": f"{name}.zip", "sha256": bytes_digest(packed.getvalue())},
        "splits": {s: entry | {"where": s, "count": count} for s, count in sizes.items()},
    }
    return {
        folder / f"{name}.zip": packed.getvalue(),
        folder / f"{name}.json": table,
        folder / f"{name}.yaml": yaml.safe_dump(manifest, sort_keys=False).encode(),
    }
