"""Predictions of a model for every image of a set: a table, and masks where masks are predicted."""

from __future__ import annotations

import csv
import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from sfda.building_blocks.device import DeviceName, choose, to_device
from sfda.building_blocks.rejection import UNKNOWN_NAME as UNKNOWN_NAME
from sfda.building_blocks.rejection import predicted_labels
from sfda.errors import BadInput
from sfda.inference.detection import detect_all
from sfda.inference.forward import refuse_not_finite
from sfda.inference.pose import pose_all
from sfda.inference.segmentation import segment_all
from sfda.loading.labels import ImageSizes, crops_of
from sfda.loading.opened import Opened, manifest_ref, open_ref, open_split
from sfda.loading.scan import scan
from sfda.refs import ModelSpec
from sfda.state_folder import disk_errors, named_by_a_person

TableRow = tuple[Any, ...]


def write_predictions(
    network: nn.Module, spec: ModelSpec, target: str, split: str, out: Path, device: DeviceName
) -> tuple[int, Path]:
    """Write `predictions.csv` to a folder; the count and the file. Raises BadInput.

    Of a classifier: file, label, confidence (the likeliest class's probability, also where the
    label is "unknown"). Of a segmenter: file, mask, mean confidence, and the share of each class;
    the masks lie in `masks/` under the images' names, class indices of the images' size. Of a
    detector: file, label, confidence and corners in pixels, one row a box.
    Of a pose network: file, and x, y and score of every joint.
    """
    chosen = choose(device)
    manifest = open_ref(manifest_ref(target)).unlabelled()
    if manifest.problem != spec.problem:
        raise BadInput(f"{target} is for {manifest.problem}, the model for {spec.problem}")
    opened = open_split(manifest, split, spec.input)
    to_device(network, chosen)
    file = out / "predictions.csv"
    with disk_errors(str(file), "free some space or name another folder"), _whole_in(out) as part:
        if spec.problem == "segmentation":
            header = ("file", "mask", "confidence", *spec.classes)
            rows = _masks(network, spec, opened, chosen, part)
        elif spec.problem == "detection":
            header = ("file", "label", "confidence", "x1", "y1", "x2", "y2")
            rows = _boxes(network, spec, opened, chosen, part)
        elif spec.problem == "pose":
            header = ("file", *(f"{j}:{k}" for j in spec.classes for k in ("x", "y", "score")))
            rows = _poses(network, spec, opened, chosen)
        else:
            header = ("file", "label", "confidence")
            rows = _labels(network, spec, opened, chosen)
        with (part / file.name).open("w", newline="", encoding="utf-8") as opened_file:
            writer = csv.writer(opened_file)
            writer.writerow(header)
            writer.writerows(rows)
    return len(opened.images), file


@contextmanager
def _whole_in(out: Path) -> Iterator[Path]:
    """A folder whose content takes its place in `out` when all of it is there, the table last;
    nothing is left of it otherwise.
    """
    with named_by_a_person(out) as umask:
        out.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(dir=out, prefix=".predictions."))
    try:
        yield part
        for made in part.rglob("*"):
            made.chmod((0o777 if made.is_dir() else 0o666) & ~umask)
        for made in sorted(part.iterdir(), key=lambda path: (path.suffix == ".csv", path.name)):
            there = out / made.name
            if there.is_dir():
                shutil.rmtree(there)  # of an earlier call
            os.replace(made, there)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _labels(
    network: nn.Module, spec: ModelSpec, opened: Opened, device: torch.device
) -> Iterator[TableRow]:
    names = (*spec.classes, UNKNOWN_NAME)  # UNKNOWN is -1, the last
    for index, output in scan(opened.images, spec.input, device=device)(network):
        refuse_not_finite(output.logits)
        probs = output.logits.softmax(1)
        labels = predicted_labels(probs, spec.reject)
        for row, label, sure in zip(
            index.tolist(), labels.tolist(), probs.amax(1).tolist(), strict=True
        ):
            yield opened.split.names[row], names[label], f"{sure:.6f}"


def _masks(
    network: nn.Module, spec: ModelSpec, opened: Opened, device: torch.device, out: Path
) -> Iterator[TableRow]:
    split = opened.split
    sizes = ImageSizes(split)
    names = mask_names(split.names, split.row_ids)
    for row, mask, sure in segment_all(
        network, opened.images, spec.input, device=device, sizes=sizes
    ):
        path = PurePosixPath("masks", names[row])
        (out / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask).save(out / path)
        shares = np.bincount(mask.ravel(), minlength=len(spec.classes)) / mask.size
        mean = float(sure.mean()) / 255
        yield split.names[row], path, f"{mean:.6f}", *(f"{share:.6f}" for share in shares)


def _poses(
    network: nn.Module, spec: ModelSpec, opened: Opened, device: torch.device
) -> Iterator[TableRow]:
    crops = crops_of(opened.split)
    for row, pose in pose_all(network, opened.images, spec.input, crops, device=device):
        table = np.column_stack([pose.joints, pose.scores]).ravel()
        yield opened.split.names[row], *(f"{value:.4f}" for value in table)


def _boxes(
    network: nn.Module, spec: ModelSpec, opened: Opened, device: torch.device, out: Path
) -> Iterator[TableRow]:
    """One row a box; the same as COCO JSON in `predictions.json`, where images without any stand
    too.
    """
    split = opened.split
    sizes = ImageSizes(split)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    detections = detect_all(network, opened.images, spec.input, device=device, sizes=sizes)
    for row, boxes in detections:
        height, width = sizes[row]
        name = split.names[row]
        images.append({"id": row + 1, "file_name": name, "width": width, "height": height})
        for box, label, score in zip(*(part.tolist() for part in boxes), strict=True):
            corners = [round(v, 2) for v in box]
            x1, y1, x2, y2 = corners
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": row + 1,
                    "category_id": label + 1,
                    "bbox": [x1, y1, round(x2 - x1, 2), round(y2 - y1, 2)],
                    "area": round((x2 - x1) * (y2 - y1), 2),
                    "iscrowd": 0,
                    "score": round(score, 6),
                }
            )
            yield name, spec.classes[label], f"{score:.6f}", *(f"{v:.2f}" for v in corners)
    categories = [{"id": i, "name": name} for i, name in enumerate(spec.classes, start=1)]
    document = {"images": images, "annotations": annotations, "categories": categories}
    (out / "predictions.json").write_text(json.dumps(document), encoding="utf-8")


def mask_names(names: Sequence[str], ids: Sequence[str]) -> list[str]:
    """Where the masks of images lie, below `masks/`; names that would meet take their row's id.

    >>> mask_names(["day/0001.jpg", "case1.nii.gz#12", "x:7", "x#7"], ["a", "b", "c", "d"])
    ['day/0001.jpg.png', 'case1.nii.gz-12.png', 'x-7.c.png', 'x-7.d.png']
    """
    plain = [name.replace("#", "-").replace(":", "-") for name in names]
    times = Counter(plain)
    return [
        f"{name}.png" if times[name] == 1 else f"{name}.{own}.png"
        for name, own in zip(plain, ids, strict=True)
    ]
