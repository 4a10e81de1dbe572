"""A simulated annotator for experiments: it answers out of labels that were held back."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sfda.annotation.request import Request, RequestedRow
from sfda.errors import BadInput
from sfda.loading.labels import mask_table
from sfda.loading.opened import open_ref
from sfda.manifests.rows import Split, read_split
from sfda.refs import ManifestRef


def annotate_from_labels(request: Request, target: ManifestRef, folder: Path) -> Path:
    """The request answered, below `folder`: classes and masks in its CSV, boxes and joints in a
    COCO JSON. Raises BadInput where labels are lacking.
    """
    split = read_split(open_ref(target), request.split)
    if not split.labelled:
        raise BadInput(
            f"{target.path} has no labels in '{request.split}' for a simulated annotator to read"
        )
    row_of = {row_id: row for row, row_id in enumerate(split.row_ids)}
    rows = [(sample, row_of[sample.row]) for sample in request.requested]
    if request.problem in ("detection", "pose"):
        return _document(request, split, rows, folder / "answers.json")
    names = split.classes if isinstance(split.classes, tuple) else request.classes
    what = "class" if split.labels is not None else "mask"
    file = folder / "answers.csv"
    with file.open("w", newline="", encoding="utf-8") as opened:
        writer = csv.writer(opened)
        writer.writerow(["row", what])
        for sample, row in rows:
            if split.labels is not None:
                writer.writerow([sample.row, names[int(split.labels[row])]])
                continue
            assert split.masks is not None
            table = mask_table(split, request.classes)
            Image.fromarray(table[split.masks.mask(row)]).save(folder / f"{sample.row}.png")
            writer.writerow([sample.row, f"{sample.row}.png"])
    return file


def _document(
    request: Request, split: Split, rows: list[tuple[RequestedRow, int]], file: Path
) -> Path:
    """One image of the document a row, so that persons of one picture stay apart."""
    names = split.classes if isinstance(split.classes, tuple) else request.classes
    posed = request.problem == "pose"
    images, annotations = [], []
    for number, (sample, row) in enumerate(rows):
        images.append(
            {
                "id": number,
                "file_name": sample.file,
                "row": sample.row,
                "height": sample.height,
                "width": sample.width,
            }
        )
        parts = _joints(split, row, sample) if posed else _boxes(split, row)
        annotations += [{"id": 0, "image_id": number} | part for part in parts]
    categories: list[dict[str, Any]] = [{"id": i, "name": name} for i, name in enumerate(names)]
    if posed:
        categories = [{"id": 0, "name": "person", "keypoints": list(names)}]
    document = {"images": images, "annotations": annotations, "categories": categories}
    file.write_text(json.dumps(document), encoding="utf-8")
    return file


def _boxes(split: Split, row: int) -> Iterator[dict[str, Any]]:
    assert split.boxes is not None
    boxes = split.boxes[row]
    for (x1, y1, x2, y2), label, crowd in zip(
        boxes.boxes.tolist(), boxes.labels.tolist(), boxes.crowd.tolist(), strict=True
    ):
        if not crowd:
            yield {"category_id": label, "bbox": [x1, y1, x2 - x1, y2 - y1]}


def _joints(split: Split, row: int, sample: RequestedRow) -> Iterator[dict[str, Any]]:
    """The joints that lie in the picture, which a crop may cut."""
    assert split.persons is not None
    person = split.persons[row]
    positions = person.joints - np.array(sample.corner)
    inside = ((positions >= 0) & (positions <= (sample.width, sample.height))).all(1)
    table = np.column_stack([positions, 2 * person.visible * inside])
    yield {"category_id": 0, "keypoints": table.ravel().tolist()}
