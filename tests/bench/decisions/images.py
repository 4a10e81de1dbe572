"""Labelled images of `bench decide`, before and after a shift. A label of -1 is no class."""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
import torchvision
from PIL import Image

from sfda.demo.digits import CLASSES, digits_source, digits_target, other_scanner
from sfda.state_folder import data_folder

SIDE = 28
NOISE, BLUR, CONTRAST = 150.0, 1.5, 0.33  # cost a LeNet of MNIST 17 to 40 points
NONE = -1
OBJECTS = ("dog", "elephant", "giraffe", "guitar", "horse", "house", "person")
FEATURES = (16, 32)  # 512 features of SqueezeNet, as an image of one channel ...
LEVELS = 16  # ... of so many levels a unit
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean and standard deviation
SOURCE_ROWS = 10_000  # of MNIST that a source model may learn from; targets have the others


class Labelled(NamedTuple):
    """Images uint8 [N, H, W] and their classes [N]."""

    images: np.ndarray[Any, Any]
    labels: np.ndarray[Any, Any]

    def take(self, rows: Any) -> Labelled:
        """Some rows."""
        return Labelled(self.images[rows], self.labels[rows])

    def shifted(self, shift: Callable[..., Any], rng: np.random.Generator) -> Labelled:
        """The same with every image changed."""
        return self._replace(images=np.stack([shift(image, rng) for image in self.images]))


def joined(*parts: Labelled) -> Labelled:
    """One after the other."""
    return Labelled(*(np.concatenate(column) for column in zip(*parts, strict=True)))


@cache
def mnist(*, source: bool) -> Labelled:
    """Rows that sources learn from, or those that targets are drawn from."""
    with np.load(data_folder() / "classification/digits/mnist_train.npz") as arrays:
        every = Labelled(arrays["x"], arrays["y"].astype(np.int64))
        own = np.flatnonzero(arrays["split"] == 0)[:SOURCE_ROWS]
    return every.take(own if source else np.setdiff1d(np.arange(len(every.labels)), own))


@cache
def usps() -> Labelled:
    """All rows, enlarged to 28 pixels."""
    with np.load(data_folder() / "classification/digits/usps_train.npz") as arrays:
        large = [cv2.resize(image, (SIDE, SIDE)) for image in arrays["x"]]
        return Labelled(np.stack(large), arrays["y"].astype(np.int64))


def drawn_digits(*, target: bool, held_out: bool | None = None) -> Labelled:
    """The built-in digits, of one scanner or the other."""
    digits = digits_target() if target else digits_source()
    rows = np.ones(len(digits.labels), bool) if held_out is None else digits.held_out == held_out
    return Labelled(digits.images[rows], digits.labels[rows])


@cache
def objects(domain: str) -> Labelled:
    """A domain of PACS as features of SqueezeNet trained on ImageNet, in 8 bits [N, 16, 32]."""
    network = torchvision.models.squeezenet1_1().features.eval()
    with np.load(data_folder() / "weights/squeezenet1_1_imagenet_backbone.npz") as arrays:
        network.load_state_dict(
            {name.removeprefix("features."): torch.from_numpy(arrays[name]) for name in arrays}
        )
    mean, std = (torch.tensor(values)[:, None, None] for values in IMAGENET)
    features, labels = [], []
    with torch.inference_mode():
        for image, label in photographs(domain):
            colours = torch.from_numpy(image).permute(2, 0, 1) / 255
            features.append(network(((colours - mean) / std)[None]).mean((2, 3))[0])
            labels.append(label)
    levels = (torch.stack(features) * LEVELS).round().clamp(0, 255).to(torch.uint8)
    return Labelled(levels.numpy().reshape(-1, *FEATURES), np.array(labels))


def photographs(domain: str) -> list[tuple[np.ndarray[Any, Any], int]]:
    """The images of a domain of PACS, [128, 128, 3], with their classes."""
    folder = data_folder() / "classification/pacs"
    with (folder / f"{domain}.csv").open() as table, zipfile.ZipFile(folder / f"{domain}.zip") as z:
        return [
            (
                np.array(Image.open(io.BytesIO(z.read(row["file"]))).convert("RGB")),
                int(row["label"]),
            )
            for row in csv.DictReader(table)
        ]


@cache
def thumbnails() -> Labelled:
    """Photographs as gray images of 28 pixels: none is a digit."""
    small = [
        cv2.cvtColor(cv2.resize(image, (SIDE, SIDE)), cv2.COLOR_RGB2GRAY)
        for image, _ in photographs("photo")
    ]
    return Labelled(np.stack(small), np.full(len(small), NONE))


# shifts: of one image uint8 [28, 28]


def plain(image: Any, rng: np.random.Generator) -> Any:
    """None."""
    return image


def noisy(image: Any, rng: np.random.Generator) -> Any:
    """White noise."""
    return np.clip(image + rng.normal(0, NOISE, image.shape), 0, 255).astype(np.uint8)


def blurred(image: Any, rng: np.random.Generator) -> Any:
    """Out of focus."""
    return cv2.GaussianBlur(image, (0, 0), BLUR)


def pale(image: Any, rng: np.random.Generator) -> Any:
    """Little contrast, on gray."""
    return (image * CONTRAST + 128 * (1 - CONTRAST)).astype(np.uint8)


def restyled(image: Any, rng: np.random.Generator) -> Any:
    """As the demo's other scanner has it."""
    return other_scanner(image, rng)


def turned(image: Any, rng: np.random.Generator) -> Any:
    """Upside down."""
    return image[::-1, ::-1].copy()


def static(image: Any, rng: np.random.Generator) -> Any:
    """Nothing but noise."""
    return rng.integers(0, 256, image.shape).astype(np.uint8)


DIGITS = CLASSES
