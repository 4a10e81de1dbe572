"""Requests as `sfda query` writes them, and what people's tools give back, for tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import small_seg
import torch

from sfda.boxes import Boxes
from sfda.data.manifest import Split, open_manifest, read_split
from sfda.data.people import CropReader
from sfda.data.posing import Pose
from sfda.data.request_files import documents
from sfda.data.requests import Guess, Request, WantedRow


def request_for(target: Path, rows: list[int], folder: Path, **changes: Any) -> Request:
    """A request about some rows in a new folder; the model sees what is true, but for classes."""
    manifest = open_manifest(target)
    split = read_split(manifest, "adapt")
    classes = manifest.classes
    assert isinstance(classes, tuple)
    copied = changes.get("copied", manifest.problem in ("classification", "segmentation"))
    wanted = []
    guesses = {}
    for row in rows:
        name, key = split.row_ids[row], split.names[row].removeprefix("x:")
        shown = _shown(split, row, copied)
        one = WantedRow(
            row=name, key=key, confidence=0.5,
            file=f"images/{name}.png" if copied else key.partition("@")[0],
            label=classes[row % 3] if manifest.problem == "classification" else None, **shown,
        )  # fmt: skip
        wanted.append(one)
        guesses[name] = _true(split, row, one)
    given = {
        "problem": manifest.problem, "manifest": manifest.name, "manifest_sha256": "0" * 64,
        "split": "adapt", "column": "index" if manifest.arrays else "file", "classes": classes,
        "by": "margin", "seed": 0, "model": "models:/toy/1", "model_sha256": "0" * 64,
        "copied": copied, "wanted": tuple(wanted),
    }  # fmt: skip
    request = Request.model_validate(given | changes)
    folder.mkdir(parents=True)
    for name, content in documents(request, guesses).items():
        (folder / name).write_bytes(content)
    return request


def _shown(split: Split, row: int, copied: bool) -> dict[str, Any]:
    if not isinstance(split.reader, CropReader):
        height, width = split.reader.size(row)
        return {"height": height, "width": width}
    crop, box = split.reader.crop(row), split.reader.boxes[row]
    assert box is not None
    if not copied:
        height, width = split.reader.images.size(row)
        return {"height": height, "width": width, "box": box}
    x, y, *size = box
    moved = (x - crop.left, y - crop.top, *size)
    return {
        "height": crop.side, "width": crop.side, "corner": (crop.left, crop.top), "box": moved
    }  # fmt: skip


def _true(split: Split, row: int, wanted: WantedRow) -> Guess:
    if split.boxes is not None:
        found = split.boxes[row]
        labels = torch.from_numpy(found.labels)
        return Guess(
            boxes=Boxes(torch.from_numpy(found.boxes), labels, torch.full((len(labels),), 0.5))
        )
    if split.people is not None:
        joints = split.people[row].joints - np.array(wanted.corner, np.float32)
        return Guess(pose=Pose(joints, np.full(len(joints), 0.5)))
    if split.masks is not None:
        _, masks = small_seg.shapes(36, seed=3)
        return Guess(masks[row])
    return Guess()


def exported(folder: Path, change: Any = None) -> Path:
    """Label Studio's JSON export after a person took over every prediction."""
    tasks = json.loads((folder / "label_studio.json").read_text())
    for n, task in enumerate(tasks):
        (guess,) = task.pop("predictions")
        task |= {"id": n + 1, "annotations": [{"id": n, "was_cancelled": False,
                 "result": guess["result"]}]}  # fmt: skip
    if change:
        tasks = change(tasks)
    out = folder / "export.json"
    out.write_text(json.dumps(tasks))
    return out
