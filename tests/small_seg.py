"""A small real segmentation job: discs and bars as PNG files with masks, a duller target."""

from __future__ import annotations

import copy
import csv
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import small
import torch
import yaml
from PIL import Image

from sfda.adaptation.loop import adapt
from sfda.adaptation.supervised import Supervised, SupervisedConfig
from sfda.config import merged
from sfda.loading.labelled_batches import LabelledLoader
from sfda.loading.scan import scan
from sfda.problems.registry import PROBLEMS
from sfda.problems.segmentation import network as segmentation
from sfda.problems.segmentation.labels import MaskTargets
from sfda.problems.segmentation.network import Segmenter
from sfda.refs import ModelRef
from sfda.weights.bundle import write_bundle

CLASSES = ("ground", "disc", "bar")
SIZE = 32
SOURCE = {"train": 40, "val": 12}
TARGET = {"adapt": 24, "test": 12}
SPEC = segmentation.make_spec("sfda:tinyunet", CLASSES)
FAST = {"lr": 0.01, "batch_size": 8, "decay": "none", "optimizer": "adam"}


def shapes(count: int, *, seed: int, dull: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [N, 32, 32, 3] with a red disc and a blue bar each, and their masks.

    Dull ones are what another camera gives: paler, on a brighter ground, with more noise.
    """
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIZE, :SIZE]
    masks = np.zeros((count, SIZE, SIZE), np.uint8)
    for mask in masks:
        row, column, radius = rng.integers(8, 24), rng.integers(8, 24), rng.integers(4, 8)
        left = rng.integers(0, SIZE - 6)
        mask[:, left : left + 5] = 2
        mask[(y - row) ** 2 + (x - column) ** 2 <= radius**2] = 1
    colours = np.array([[30, 60, 30], [220, 60, 60], [60, 60, 220]], float)
    images = colours[masks] + 10 * rng.normal(size=(count, SIZE, SIZE, 3))
    if dull:
        images = 90 + 0.3 * images + 10 * rng.normal(size=images.shape)
    return images.clip(0, 255).astype(np.uint8), masks


def write(
    folder: Path, name: str, sizes: dict[str, int], *, seed: int, dull: bool = False, **changes: Any
) -> Path:
    """PNG files of images and masks, a row file and a manifest; None leaves an entry out."""
    images, masks = shapes(sum(sizes.values()), seed=seed, dull=dull)
    splits = np.repeat(list(sizes), list(sizes.values()))
    rows = []
    for i, (image, mask, split) in enumerate(zip(images, masks, splits, strict=True)):
        row = {"file": f"images/{i:03d}.png", "mask": f"masks/{i:03d}.png", "split": str(split)}
        for key, array in (("file", image), ("mask", mask)):
            path = folder / name / row[key]
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(path)
        rows.append(row)
    return write_manifest(folder, name, rows, sizes, **changes)


def write_manifest(
    folder: Path, name: str, rows: list[dict[str, str]], sizes: dict[str, int], **changes: Any
) -> Path:
    """The row file and the manifest of what lies in `folder / name`."""
    table = folder / f"{name}.csv"
    with table.open("w", newline="") as opened:
        writer = csv.DictWriter(opened, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    document = {
        "name": f"toy/{name}",
        "problem": "segmentation",
        "origin": "made by a test",
        "root": f"./{name}",
        "classes": list(CLASSES),
        "splits": {
            split: {
                "rows": table.name, "sha256": small.sha256(table), "where": split, "count": count
            }
            for split, count in sizes.items()
        },
    } | changes  # fmt: skip
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in document.items() if v is not None}))
    return path


@cache
def _trained() -> Segmenter:
    images, masks = shapes(SOURCE["train"], seed=1)
    torch.manual_seed(0)
    config = SupervisedConfig.from_settings(
        merged(Supervised.defaults_for("segmentation"), {"schedule": FAST | {"epochs": 12}})
    )
    method = Supervised(segmentation.build_from_spec(SPEC), small.info(len(images)), config)
    loader = LabelledLoader(
        images,
        MaskTargets(masks),
        SPEC.input,
        SPEC.views,
        problem=PROBLEMS["segmentation"],
        batch_size=8,
        seed=0,
        device="cpu",
    )
    look = scan(images, SPEC.input, device="cpu")
    for _ in adapt(method, loader, look, config.schedule):
        pass
    trained: Segmenter = method.student.eval()
    return trained


def source() -> Segmenter:
    """A fresh copy of the source model, trained in seconds."""
    return copy.deepcopy(_trained())


def bundle(folder: Path) -> ModelRef:
    """The source model on disk."""
    digest = write_bundle(folder, source(), SPEC)
    return ModelRef(
        uri=str(folder), sha256=digest, problem="segmentation", arch=SPEC.arch, classes=CLASSES
    )
