"""Built-in data: handwritten digits on two scanners, from scikit-learn's `load_digits`.

The source is a clean 28-pixel rendition. The target are other digits as another scanner might
give them: turned, in a heavier and paler pen, on uneven paper, with noise. The shift was chosen
once, by what it costs a small network trained on the source, and by no adaptation method.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import yaml
from sklearn.datasets import load_digits

from sfda.authoring.splits import stratify
from sfda.demo.drawn import put_demo
from sfda.manifests.digests import bytes_digest

SIZE = 28  # pixels, height and width
TURN = -15.0  # degrees, on average
INK = 0.75  # brightness of the target's ink
PAPER = 0.4  # brightest patch of its ground
GRAIN = 0.08  # standard deviation of its noise
CLASSES = tuple("0123456789")
ORIGIN = (
    "8x8 handwritten digits of scikit-learn (load_digits), the test set of UCI's "
    "'Optical Recognition of Handwritten Digits' (Alpaydin and Kaynak, 1998)"
)


class Digits(NamedTuple):
    """One domain: images uint8 [N, 28, 28], labels 0..9, and whether each row is held out."""

    images: np.ndarray
    labels: np.ndarray
    held_out: np.ndarray  # bool: source val, target test


def digits_source() -> Digits:
    """1,078 clean digits, white on black; a fifth of each class is held out as `val`."""
    return _domain(target=False)


def digits_target() -> Digits:
    """The other 719, from the other scanner; two fifths of each class are held out as `test`."""
    return _domain(target=True)


def write_demo(folder: Path) -> tuple[Path, Path]:
    """Write both domains as npz with their manifests into `folder`: (source, target) manifests.

    The same bytes every time; what is there is replaced. Raises BadInput if it cannot be written.
    """
    source = _files(folder, "digits_source", digits_source(), ("train", "val"))
    target = _files(folder, "digits_target", digits_target(), ("adapt", "test"))
    put_demo(folder, source | target)
    return folder / "digits_source.yaml", folder / "digits_target.yaml"


def clean(image: np.ndarray) -> np.ndarray:
    """An 8x8 digit of levels 0..16 as uint8 28x28: white on black, two pixels of border."""
    level = (image * (255 / 16)).astype(np.float32)
    large = cv2.resize(level, (SIZE - 4, SIZE - 4), interpolation=cv2.INTER_CUBIC)
    return np.clip(cv2.copyMakeBorder(large, 2, 2, 2, 2, cv2.BORDER_CONSTANT), 0, 255).astype(
        np.uint8
    )


def other_scanner(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A clean digit as the target's scanner gives it, uint8 28x28."""
    centre = (SIZE - 1) / 2
    turn = cv2.getRotationMatrix2D((centre, centre), TURN + rng.uniform(-5, 5), 1.0)
    ink = cv2.warpAffine(image, turn, (SIZE, SIZE), flags=cv2.INTER_LINEAR)
    heavy = cv2.dilate(ink, np.ones((2, 2), np.uint8)).astype(np.float32) / 255
    coarse = rng.uniform(0, 1, (5, 5)).astype(np.float32)
    paper = PAPER * cv2.resize(coarse, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC)
    grain = rng.normal(0, GRAIN, (SIZE, SIZE))
    return np.clip(255 * (paper + heavy * (INK - paper) + grain), 0, 255).astype(np.uint8)


def _domain(*, target: bool) -> Digits:
    bunch = load_digits()
    labels = bunch.target.astype(np.int64)
    names = [f"digits:{i}" for i in range(len(labels))]
    mine = np.flatnonzero(np.array(stratify(names, list(map(str, labels)), 0.4)) == target)
    images = [clean(bunch.images[i]) for i in mine]
    if target:
        images = [
            other_scanner(image, np.random.default_rng([2026, int(i)]))
            for image, i in zip(images, mine, strict=True)
        ]
    own = [f"{'target' if target else 'source'}:{i}" for i in mine]
    held = stratify(own, list(map(str, labels[mine])), 0.4 if target else 0.2)
    return Digits(np.stack(images), labels[mine], np.array(held))


def _files(folder: Path, name: str, digits: Digits, splits: tuple[str, str]) -> dict[Path, bytes]:
    """An npz and its manifest, the npz first."""
    archive = io.BytesIO()
    np.savez(archive, x=digits.images, y=digits.labels, split=digits.held_out.astype(np.uint8))
    document = {
        "name": name.replace("_", "/"),
        "problem": "classification",
        "version": 1,
        "origin": ORIGIN,
        "licence": "CC BY 4.0 (UCI); rendered anew by sfda",
        "root": ".",
        "classes": list(CLASSES),
        "archive": {"file": f"{name}.npz", "sha256": bytes_digest(archive.getvalue())},
        "arrays": {"image": "x", "label": "y", "split": "split"},
        "splits": {
            split: {"equals": value, "count": int((digits.held_out == bool(value)).sum())}
            for value, split in enumerate(splits)
        },
    }
    text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True)
    return {folder / f"{name}.npz": archive.getvalue(), folder / f"{name}.yaml": text.encode()}
