"""A simulated annotator for experiments: it answers out of labels that were held back."""

from __future__ import annotations

import csv
from pathlib import Path

from PIL import Image

from sfda.data.manifest import read_split
from sfda.data.requests import Request
from sfda.errors import BadInput
from sfda.refs import ManifestRef
from tasks import manifests


def answer_from_labels(request: Request, target: ManifestRef, folder: Path) -> Path:
    """The request's CSV filled in, below `folder`. Raises BadInput where labels are lacking."""
    split = read_split(manifests.open_ref(target), request.split)
    if split.labels is None and split.masks is None:
        raise BadInput(
            f"{target.path} has no labels in '{request.split}' for a simulated annotator to read"
        )
    place = {row_id: row for row, row_id in enumerate(split.row_ids)}
    names = split.classes if isinstance(split.classes, tuple) else request.classes
    what = "class" if split.labels is not None else "mask"
    file = folder / "answers.csv"
    with file.open("w", newline="", encoding="utf-8") as opened:
        writer = csv.writer(opened)
        writer.writerow(["row", what])
        for wanted in request.wanted:
            row = place[wanted.row]
            if split.labels is not None:
                writer.writerow([wanted.row, names[int(split.labels[row])]])
                continue
            assert split.masks is not None
            table = manifests.mask_table(split, request.classes)
            Image.fromarray(table[split.masks.mask(row)]).save(folder / f"{wanted.row}.png")
            writer.writerow([wanted.row, f"{wanted.row}.png"])
    return file
