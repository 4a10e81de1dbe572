"""Built-in data for detection: drawn trays of parts, under one light and under another.

The source are gears, bolts and washers on a plain tray. The target are other trays, photographed
with another camera: a warm light from one side, less contrast, blur and noise. The shift was set by
what it costs a small detector that learnt the source.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from sfda.demo.drawn import Drawn, as_bytes, coco_files, put_demo

SIZE = 64  # pixels, height and width
CLASSES = ("gear", "bolt", "washer")
SOURCE = {"train": 240, "val": 60}
TARGET = {"adapt": 160, "test": 80}
CONTRAST = 0.6  # of the source's
WARM = np.array([1.12, 1.0, 0.8])  # of red, green and blue
GRAIN = 6.0  # standard deviation of the noise, in levels of 255


class Tray(NamedTuple):
    """An image uint8 [64, 64, 3], boxes [n, 4] as x1, y1, x2, y2 and classes [n]."""

    image: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray


def in_the_lab(number: int) -> Tray:
    """One tray of the source domain."""
    rng = np.random.default_rng([2027, 0, number])
    tray = _drawn(rng)
    return tray._replace(image=as_bytes(tray.image + rng.normal(0, 4, tray.image.shape)))


def in_the_shop(number: int) -> Tray:
    """One tray of the target domain."""
    rng = np.random.default_rng([2027, 1, number])
    tray = _drawn(rng)
    image = tray.image
    left, right = rng.permutation([0.75, 1.0]).tolist()
    side = np.linspace(left, right, SIZE)[None, :, None]
    image = (110 + CONTRAST * (image - 110)) * side * WARM
    image = cv2.GaussianBlur(image, (0, 0), 0.8)
    return tray._replace(image=as_bytes(image + rng.normal(0, GRAIN, image.shape)))


def write_demo(folder: Path) -> tuple[Path, Path]:
    """Write both domains as zips with COCO files and manifests: (source, target) manifests.

    The same bytes every time; what is there is replaced. Raises BadInput if it cannot be written.
    """
    files = _files(folder, "parts_lab", SOURCE) | _files(folder, "parts_shop", TARGET)
    put_demo(folder, files)
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
        box = _around(mask)
        if any(_overlap(box, other) > 0.15 for other in boxes):
            continue
        tone = np.array(((70, 75, 85), (95, 90, 80), (60, 60, 60))[label]) + rng.normal(0, 10)
        image[mask > 0] = tone
        boxes.append(box)
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


def _files(folder: Path, name: str, sizes: dict[str, int]) -> dict[Path, bytes]:
    draw = in_the_lab if name == "parts_lab" else in_the_shop

    def drawn() -> Iterator[Drawn]:
        for number in range(1, sum(sizes.values()) + 1):
            tray = draw(number)
            boxes = ([x1, y1, x2 - x1, y2 - y1] for x1, y1, x2, y2 in tray.boxes)
            yield (
                tray.image,
                [
                    {"category_id": int(label) + 1, "bbox": box, "area": box[2] * box[3]}
                    for box, label in zip(boxes, tray.labels, strict=True)
                ],
            )

    categories = [{"id": i, "name": c} for i, c in enumerate(CLASSES, start=1)]
    more = {"problem": "detection", "classes": list(CLASSES)}
    return coco_files(folder, name, sizes, drawn(), categories, more)
