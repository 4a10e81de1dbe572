"""A small real pose job: the built-in stick figures, fewer of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import small
import yaml
from PIL import Image

from sfda.demo import figures

SOURCE = {"train": 48, "val": 12}
TARGET = {"adapt": 40, "test": 16}


def write(
    folder: Path, name: str, sizes: dict[str, int], *, night: bool = False, **changes: Any
) -> Path:
    """PNG files, their COCO file and a manifest; `annotations` given in its place if any."""
    draw = figures.at_night if night else figures.in_the_gym
    splits = np.repeat(list(sizes), list(sizes.values()))
    position = folder / name
    position.mkdir(parents=True, exist_ok=True)
    entries, annotations = [], []
    for i, split in enumerate(splits):
        figure = draw(i)
        Image.fromarray(figure.image).save(position / f"{i:03d}.png")
        entries.append({"id": i, "file_name": f"{i:03d}.png", "split": str(split)})
        marked = [float(v) for x, y in figure.joints for v in (x, y, 2)]
        annotations.append(
            {"id": i, "image_id": i, "category_id": 1, "keypoints": marked,
             "bbox": [2, 2, 60, 60], "area": 900}
        )  # fmt: skip
    edges = [[figures.JOINTS.index(a) + 1, figures.JOINTS.index(b) + 1] for a, b in figures.EDGES]
    document = {
        "images": entries,
        "annotations": changes.pop("annotations", annotations),
        "categories": [
            {"id": 1, "name": "figure", "keypoints": list(figures.JOINTS), "skeleton": edges}
        ],
    }
    table = folder / f"{name}.json"
    table.write_text(json.dumps(document))
    manifest = {
        "name": f"toy/{name}", "problem": "pose", "origin": "made by a test",
        "root": f"./{name}", "classes": list(figures.JOINTS), "padding": 1.1,
        "skeleton": {
            "edges": [list(e) for e in figures.EDGES], "pairs": [list(p) for p in figures.PAIRS],
            "groups": {k: list(v) for k, v in figures.GROUPS.items()}, "unit": ["neck", "hip"],
        },
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
