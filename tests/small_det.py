"""A small real detection job: squares of two colours as PNG files with a COCO file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import small
import yaml
from PIL import Image

CLASSES = ("red", "blue")
SIZE = 64
SOURCE = {"train": 32, "val": 12}
TARGET = {"adapt": 12, "test": 10}
FAST = {"lr": 0.005, "batch_size": 4, "decay": "none"}


def images(
    count: int, *, seed: int, dull: bool = False
) -> tuple[np.ndarray, list[list[tuple[int, list[int]]]]]:
    """uint8 [N, 64, 64, 3] with one or two squares each, and their classes and boxes (COCO's)."""
    rng = np.random.default_rng(seed)
    pictures = np.full((count, SIZE, SIZE, 3), 60.0)
    result = []
    for picture in pictures:
        boxes = []
        for half in range(int(rng.integers(1, 3))):
            side, label = int(rng.integers(14, 24)), int(rng.integers(0, 2))
            top = int(rng.integers(0, SIZE - side))
            left = 32 * half + int(rng.integers(0, 33 - side))
            colour = np.array(((220, 60, 60), (60, 60, 220))[label])
            picture[top : top + side, left : left + side] = colour
            boxes.append((label, [left, top, side, side]))
        result.append(boxes)
    pictures += rng.normal(0, 8, pictures.shape)
    if dull:
        pictures = 70 + 0.5 * pictures + rng.normal(0, 6, pictures.shape)
    return pictures.clip(0, 255).astype(np.uint8), result


def write(
    folder: Path, name: str, sizes: dict[str, int], *, seed: int, dull: bool = False, **changes: Any
) -> Path:
    """PNG files, their COCO file and a manifest; `annotations` given in its place if any."""
    pictures, result = images(sum(sizes.values()), seed=seed, dull=dull)
    splits = np.repeat(list(sizes), list(sizes.values()))
    position = folder / name
    position.mkdir(parents=True, exist_ok=True)
    entries = []
    for i, (picture, split) in enumerate(zip(pictures, splits, strict=True)):
        Image.fromarray(picture).save(position / f"{i:03d}.png")
        entries.append(
            {"id": i, "file_name": f"{i:03d}.png", "width": SIZE, "height": SIZE,
             "split": str(split)}
        )  # fmt: skip
    annotations = [
        {"id": 0, "image_id": i, "category_id": label + 1, "bbox": box, "iscrowd": 0}
        for i, boxes in enumerate(result)
        for label, box in boxes
    ]
    document = {
        "images": entries,
        "annotations": changes.pop("annotations", annotations),
        "categories": [{"id": i, "name": c} for i, c in enumerate(CLASSES, start=1)],
    }
    table = folder / f"{name}.json"
    table.write_text(json.dumps(document))
    manifest = {
        "name": f"toy/{name}", "problem": "detection", "origin": "made by a test",
        "root": f"./{name}", "classes": list(CLASSES),
        "splits": {
            split: {
                "rows": table.name, "sha256": small.sha256(table), "where": split, "count": count
            }
            for split, count in sizes.items()
        },
    } | changes  # fmt: skip
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(manifest))
    return path
