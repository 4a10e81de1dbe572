"""Requests as `sfda query` writes them, and what people's tools give back, for tests."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import small_seg
import torch

from sfda.annotation.request_files import documents
from sfda.building_blocks.boxes import Boxes
from sfda.formats.keypoints import CropReader
from sfda.formats.request import Guess, Request, RequestedRow
from sfda.manifests.opening import open_manifest
from sfda.manifests.rows import Split, read_split
from sfda.problems.detection.labels import BoxSets
from sfda.problems.pose.inference import Joints
from sfda.problems.pose.labels import JointSets
from sfda.problems.segmentation.labels import MaskLabels


def request_for(target: Path, rows: list[int], folder: Path, **changes: Any) -> Request:
    """A request about some rows in a new folder; the model sees what is true, but for classes."""
    manifest = open_manifest(target)
    split = read_split(manifest, "adapt")
    classes = manifest.classes
    assert isinstance(classes, tuple)
    copied = changes.get("copied", manifest.problem in ("classification", "segmentation"))
    expected = []
    guesses = {}
    for row in rows:
        name, key = split.row_ids[row], split.names[row].removeprefix("x:")
        shown = _shown(split, row, copied)
        one = RequestedRow(
            row=name, key=key, confidence=0.5,
            file=f"images/{name}.png" if copied else key.partition("@")[0],
            label=classes[row % 3] if manifest.problem == "classification" else None, **shown,
        )  # fmt: skip
        expected.append(one)
        guesses[name] = _true(split, row, one)
    inputs = {
        "problem": manifest.problem, "manifest": manifest.name, "manifest_sha256": "0" * 64,
        "split": "adapt", "column": "index" if manifest.arrays else "file", "classes": classes,
        "by": "margin", "seed": 0, "model": "models:/toy/1", "model_sha256": "0" * 64,
        "copied": copied, "wanted": tuple(expected),
    }  # fmt: skip
    request = Request.model_validate(inputs | changes)
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


def _true(split: Split, row: int, expected: RequestedRow) -> Guess:
    if isinstance(split.labels, BoxSets):
        result = split.labels[row]
        labels = torch.from_numpy(result.labels)
        return Boxes(torch.from_numpy(result.boxes), labels, torch.full((len(labels),), 0.5))
    if isinstance(split.labels, JointSets):
        joints = split.labels[row].joints - np.array(expected.corner, np.float32)
        return Joints(joints, np.full(len(joints), 0.5))
    if isinstance(split.labels, MaskLabels):
        _, masks = small_seg.shapes(36, seed=3)
        return masks[row]
    return None


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


def zipped(folder: Path, name: str, content: str) -> Path:
    out = folder / "cvat.zip"
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(name, content)
        archive.writestr("images/x.png", b"")
    return out


def least(folder: Path) -> Path:
    """Label Studio's JSON-MIN after a person took over every prediction."""
    rows = []
    for n, task in enumerate(json.loads((folder / "label_studio.json").read_text())):
        row = {**task["data"], "id": n}
        for result in task["predictions"][0]["result"]:
            size = {k: result[k] for k in ("original_width", "original_height")}
            row.setdefault(result["from_name"], []).append({**result["value"], **size})
        rows.append(row)
    out = folder / "min.json"
    out.write_text(json.dumps(rows))
    return out


def coco(folder: Path) -> Path:
    """CVAT's COCO export after a person took over everything; it forgets what it does not know."""
    document = json.loads((folder / "cvat_coco.json").read_text())
    for image in document["images"]:
        image.pop("row", None)
    for annotation in document["annotations"]:
        del annotation["score"]
    return zipped(folder, "annotations/instances_default.json", json.dumps(document))


def xml(folder: Path) -> Path:
    """CVAT's own export of the same."""
    document = json.loads((folder / "cvat_coco.json").read_text())
    names = {c["id"]: c for c in document["categories"]}
    lines = ['<?xml version="1.0" encoding="utf-8"?>', "<annotations><version>1.1</version>"]
    for image in document["images"]:
        size = f'width="{image["width"]}" height="{image["height"]}"'
        lines.append(f'<image id="{image["id"]}" name="{image["file_name"]}" {size}>')
        for part in document["annotations"]:
            if part["image_id"] != image["id"]:
                continue
            category = names[part["category_id"]]
            if "keypoints" in part:
                table = np.array(part["keypoints"]).reshape(-1, 3)
                lines.append(f'<skeleton label="{category["name"]}" z_order="0">')
                lines += [
                    f'<points label="{joint}" outside="0" occluded="0" points="{x},{y}"></points>'
                    for joint, (x, y, _) in zip(category["keypoints"], table, strict=True)
                ]
                lines.append("</skeleton>")
                continue
            x, y, width, height = part["bbox"]
            lines.append(
                f'<box label="{category["name"]}" source="manual" occluded="0" xtl="{x}" '
                f'ytl="{y}" xbr="{x + width}" ybr="{y + height}" z_order="0"></box>'
            )
        lines.append("</image>")
    return zipped(folder, "annotations.xml", "\n".join([*lines, "</annotations>"]))


def filled(folder: Path) -> Path:
    """The request's CSV with the model's answer taken over."""
    lines = (folder / "request.csv").read_text().splitlines()
    header = lines[0].split(",")
    out = [lines[0]]
    for line in lines[1:]:
        row = dict(zip(header, line.split(","), strict=True))
        if "joint" in row:
            row |= {"x": row["model_x"], "y": row["model_y"]}
        else:
            row["class"] = row["model_says"]
        out.append(",".join(row.values()))
    table = folder / "filled.csv"
    table.write_text("\n".join(out))
    return table
