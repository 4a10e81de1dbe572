"""Built-in data for several labels an image: drawn panels of signs, on two screens.

Each panel shows any of four signs, each at most once, and a few panels none. The source is a clear
screen. The target are other panels, on a screen that is seen through haze: brighter ground, less
contrast, blur and noise. The shift was set by what it costs a small network trained on the source.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import yaml

from sfda.demo.drawn import as_bytes, put_demo
from sfda.manifests.digests import bytes_digest

SIZE = 28  # pixels, height and width
CELL = SIZE // 2  # signs lie in a grid of two by two, each moved a little
CLASSES = ("disc", "square", "triangle", "cross")
OFTEN = 0.45  # probability of each sign
SOURCE = {"train": 480, "val": 120}
TARGET = {"adapt": 240, "test": 160}
HAZE = 45.0  # brightness that the haze adds, at its thickest
CONTRAST = 0.65  # of the source's
GRAIN = 10.0  # standard deviation of the noise, in levels of 255


class Panels(NamedTuple):
    """A domain: images uint8 [N, 28, 28], labels uint8 [N, 4] of 0 and 1, each row's split."""

    images: np.ndarray
    labels: np.ndarray
    split: np.ndarray


def clear_panels() -> Panels:
    """The source domain: 480 to learn from and 120 as `val`."""
    return _domain(SOURCE, hazy=False)


def hazy_panels() -> Panels:
    """The target domain: 240 to adapt to and 160 as `test`."""
    return _domain(TARGET, hazy=True)


def write_demo(folder: Path) -> tuple[Path, Path]:
    """Write both domains as npz with their manifests into `folder`: (source, target) manifests.

    The same bytes every time; what is there is replaced. Raises BadInput if it cannot be written.
    """
    source = _files(folder, "signs_clear", clear_panels(), SOURCE)
    target = _files(folder, "signs_hazy", hazy_panels(), TARGET)
    put_demo(folder, source | target)
    return folder / "signs_clear.yaml", folder / "signs_hazy.yaml"


def _domain(sizes: dict[str, int], *, hazy: bool) -> Panels:
    count = sum(sizes.values())
    rngs = [np.random.default_rng([2028, int(hazy), number]) for number in range(count)]
    labels = np.stack([rng.random(len(CLASSES)) < OFTEN for rng in rngs]).astype(np.uint8)
    show = _through_haze if hazy else _clearly
    images = [as_bytes(show(_drawn(row, rng), rng)) for row, rng in zip(labels, rngs, strict=True)]
    return Panels(np.stack(images), labels, np.repeat(np.arange(len(sizes)), list(sizes.values())))


def _drawn(shown: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """White signs on black, float [28, 28] from 0 to 1, each in a cell of its own."""
    image = np.zeros((SIZE, SIZE), np.uint8)
    for label, cell in zip(np.flatnonzero(shown), rng.permutation(4), strict=False):
        x, y = (CELL * (np.array([cell % 2, cell // 2]) + 0.5) + rng.uniform(-2, 2, 2)).tolist()
        half = int(rng.integers(4, 6))
        (_disc, _square, _triangle, _cross)[label](image, round(x), round(y), half)
    return image / 255


def _clearly(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    ink = rng.uniform(190, 240)
    result: np.ndarray = 20 + ink * image + rng.normal(0, 6, image.shape)
    return result


def _through_haze(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    coarse = rng.uniform(0.4, 1, (3, 3)).astype(np.float32)
    haze = HAZE * cv2.resize(coarse, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC)
    soft = cv2.GaussianBlur(image, (0, 0), 0.8)
    ink = CONTRAST * rng.uniform(190, 240)
    result: np.ndarray = 20 + haze + ink * soft + rng.normal(0, GRAIN, image.shape)
    return result


def _disc(image: np.ndarray, x: int, y: int, half: int) -> None:
    cv2.circle(image, (x, y), half, 255, -1)


def _square(image: np.ndarray, x: int, y: int, half: int) -> None:
    cv2.rectangle(image, (x - half, y - half), (x + half, y + half), 255, 2)


def _triangle(image: np.ndarray, x: int, y: int, half: int) -> None:
    corners = [(x, y - half), (x - half, y + half), (x + half, y + half)]
    cv2.fillPoly(image, [np.array(corners, np.int32)], 255)


def _cross(image: np.ndarray, x: int, y: int, half: int) -> None:
    cv2.line(image, (x - half, y - half), (x + half, y + half), 255, 2)
    cv2.line(image, (x - half, y + half), (x + half, y - half), 255, 2)


def _files(folder: Path, name: str, panels: Panels, sizes: dict[str, int]) -> dict[Path, bytes]:
    """An npz and its manifest, the npz first."""
    archive = io.BytesIO()
    np.savez(archive, x=panels.images, y=panels.labels, split=panels.split.astype(np.uint8))
    document: dict[str, Any] = {
        "name": name.replace("_", "/"),
        "problem": "multilabel",
        "version": 1,
        "origin": "drawn by sfda",
        "licence": "Apache-2.0",
        "root": ".",
        "classes": list(CLASSES),
        "archive": {"file": f"{name}.npz", "sha256": bytes_digest(archive.getvalue())},
        "arrays": {"image": "x", "label": "y", "split": "split"},
        "splits": {
            split: {"equals": value, "count": count}
            for value, (split, count) in enumerate(sizes.items())
        },
    }
    text = yaml.safe_dump(document, sort_keys=False)
    return {folder / f"{name}.npz": archive.getvalue(), folder / f"{name}.yaml": text.encode()}
