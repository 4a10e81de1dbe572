"""Built-in data for segmentation: drawn street scenes, by day and at dusk.

The source are scenes by day. The target are other scenes, of the same kind but taken at dusk by
another camera: darker, with a colour cast, less contrast, blur and noise. The shift was set by what
it costs a small network trained on the source.
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import yaml

from sfda.demo.drawn import EPOCH, as_bytes, put_demo
from sfda.formats.table import csv_bytes
from sfda.manifests.digests import bytes_digest

SIZE = 64  # pixels, height and width
CLASSES = ("sky", "building", "road", "tree", "car")
SKY, BUILDING, ROAD, TREE, CAR = range(5)
SOURCE = {"train": 200, "val": 60}
TARGET = {"adapt": 120, "test": 60}
LIGHT = 0.62  # of the day's, that is left at dusk
CAST = (1.0, 0.82, 0.95)  # of red, green and blue
HAZE = 16.0  # grey that lies over everything at dusk
GRAIN = 9.0  # standard deviation of the noise at dusk, in levels of 255


class Scene(NamedTuple):
    """An image uint8 [64, 64, 3] and its mask uint8 [64, 64] of class indices."""

    image: np.ndarray
    mask: np.ndarray


def by_day(number: int) -> Scene:
    """One scene of the source domain."""
    rng = np.random.default_rng([2026, 0, number])
    scene = _drawn(rng)
    return Scene(as_bytes(scene.image + rng.normal(0, 4, scene.image.shape)), scene.mask)


def at_dusk(number: int) -> Scene:
    """One scene of the target domain."""
    rng = np.random.default_rng([2026, 1, number])
    scene = _drawn(rng)
    dark = scene.image * LIGHT * np.array(CAST) * rng.uniform(0.85, 1.15) + HAZE
    blurred = cv2.GaussianBlur(dark, (0, 0), 0.8)
    return Scene(as_bytes(blurred + rng.normal(0, GRAIN, dark.shape)), scene.mask)


def write_demo(folder: Path) -> tuple[Path, Path]:
    """Write both domains as zips with manifests into `folder`: (source, target) manifests.

    The same bytes every time; what is there is replaced. Raises BadInput if it cannot be written.
    """
    files = _files(folder, "scenes_day", SOURCE) | _files(folder, "scenes_dusk", TARGET)
    put_demo(folder, files)
    return folder / "scenes_day.yaml", folder / "scenes_dusk.yaml"


def _drawn(rng: np.random.Generator) -> Scene:
    """A street below a sky: buildings and trees behind, cars on the road."""
    horizon = int(rng.integers(26, 36))
    image = np.empty((SIZE, SIZE, 3), np.float64)
    image[:] = np.linspace(1.0, 0.86, SIZE)[:, None, None] * np.array([150, 190, 235])
    mask = np.full((SIZE, SIZE), SKY, np.uint8)
    _paint(image, mask, np.s_[horizon:, :], ROAD, _tone(rng, (95, 95, 100)))
    for column in np.arange(4.0, SIZE, 12) + rng.uniform(-4, 4):  # the road's markings
        image[SIZE - 8 : SIZE - 6, int(max(0, column)) : int(column) + 6] = 190
    left = int(rng.integers(-6, 4))
    while left < SIZE:
        width, top = int(rng.integers(10, 22)), int(rng.integers(4, horizon - 8))
        if rng.uniform() < 0.75:
            _building(image, mask, (top, horizon + 2, max(0, left), left + width), rng)
        left += width
    for _ in range(int(rng.integers(1, 5))):
        _tree(image, mask, int(rng.integers(2, SIZE - 2)), horizon, rng)
    for _ in range(int(rng.integers(1, 4))):
        _car(image, mask, int(rng.integers(0, SIZE - 8)), horizon, rng)
    return Scene(image, mask)


def _building(
    image: np.ndarray, mask: np.ndarray, box: tuple[int, int, int, int], rng: np.random.Generator
) -> None:
    top, bottom, left, right = box
    tones = ((170, 120, 95), (190, 180, 160), (140, 135, 140))
    tone = _tone(rng, tones[int(rng.integers(len(tones)))])
    _paint(image, mask, np.s_[top:bottom, left:right], BUILDING, tone)
    for row in range(top + 2, bottom - 3, 5):
        for column in range(left + 2, right - 2, 5):
            image[row : row + 2, column : column + 2] = tone * 0.55


def _tree(
    image: np.ndarray, mask: np.ndarray, column: int, horizon: int, rng: np.random.Generator
) -> None:
    radius = float(rng.uniform(4, 8))
    y, x = np.mgrid[:SIZE, :SIZE]
    foliage = (y - (horizon - radius)) ** 2 + (x - column) ** 2 <= radius**2
    foliage |= (np.abs(x - column) <= 1) & (y >= horizon - radius) & (y <= horizon + 3)
    _paint(image, mask, foliage, TREE, _tone(rng, (60, 120, 55)))
    image[foliage] += rng.normal(0, 14, (int(foliage.sum()), 1))  # leaves


def _car(
    image: np.ndarray, mask: np.ndarray, left: int, horizon: int, rng: np.random.Generator
) -> None:
    bottom = int(rng.integers(horizon + 8, SIZE - 2))
    scale = 0.6 + (bottom - horizon) / 30
    width, height = int(14 * scale), int(6 * scale)
    tones = ((200, 40, 40), (40, 70, 190), (225, 225, 225), (35, 35, 40))
    tone = _tone(rng, tones[int(rng.integers(len(tones)))])
    _paint(image, mask, np.s_[bottom - height // 2 - 1 : bottom, left : left + width], CAR, tone)
    roof = np.s_[
        bottom - height : bottom - height // 2 - 1, left + width // 5 : left + width - width // 4
    ]
    _paint(image, mask, roof, CAR, tone * 0.8)
    for wheel in (left + width // 5, left + width - width // 3):
        _paint(image, mask, np.s_[bottom : bottom + 1, wheel : wheel + 3], CAR, np.full(3, 20.0))


def _paint(
    image: np.ndarray, mask: np.ndarray, where: object, label: int, tone: np.ndarray
) -> None:
    image[where] = tone  # type: ignore[call-overload]
    mask[where] = label  # type: ignore[call-overload]


def _tone(rng: np.random.Generator, colour: tuple[int, int, int]) -> np.ndarray:
    """A colour, a little lighter or darker."""
    return np.array(colour, np.float64) * rng.uniform(0.85, 1.15)


def _files(folder: Path, name: str, sizes: dict[str, int]) -> dict[Path, bytes]:
    """A zip, its row file and its manifest, in this order."""
    draw = by_day if name == "scenes_day" else at_dusk
    archive, lines = io.BytesIO(), [("file", "mask", "split")]
    splits = [split for split, size in sizes.items() for _ in range(size)]
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as packed:
        for number, split in enumerate(splits):
            scene = draw(number)
            row = (f"images/{number:04d}.png", f"masks/{number:04d}.png", split)
            for name_in_zip, picture in zip(
                row, (scene.image[..., ::-1], scene.mask), strict=False
            ):
                packed.writestr(zipfile.ZipInfo(name_in_zip, EPOCH), _png(picture))
            lines.append(row)
    rows = csv_bytes(lines)
    document = {
        "name": name.replace("_", "/"),
        "problem": "segmentation",
        "version": 1,
        "origin": "drawn by sfda",
        "licence": "Apache-2.0",
        "root": ".",
        "classes": list(CLASSES),
        "archive": {"file": f"{name}.zip", "sha256": bytes_digest(archive.getvalue())},
        "splits": {
            split: {
                "rows": f"{name}.csv",
                "sha256": bytes_digest(rows),
                "where": split,
                "count": size,
            }
            for split, size in sizes.items()
        },
    }
    text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True)
    return {
        folder / f"{name}.zip": archive.getvalue(),
        folder / f"{name}.csv": rows,
        folder / f"{name}.yaml": text.encode(),
    }


def _png(picture: np.ndarray) -> bytes:
    done, coded = cv2.imencode(".png", picture)
    assert done
    return bytes(coded)
