"""A simulated annotator for experiments: it answers out of labels that were held back."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from PIL import Image

from sfda.errors import BadInput
from sfda.formats.request import Request, RequestedRow
from sfda.loading.opened import open_ref
from sfda.manifests.rows import Split, read_split
from sfda.problems.registry import PROBLEMS
from sfda.refs import ManifestRef


def annotate_from_labels(request: Request, target: ManifestRef, folder: Path) -> Path:
    """The request answered, below `folder`: in its CSV, or in a COCO JSON. Raises BadInput where
    labels are lacking.
    """
    split = read_split(open_ref(target), request.split)
    if split.labels is None:
        raise BadInput(
            f"{target.path} has no labels in '{request.split}' for a simulated annotator to read"
        )
    row_of = {row_id: row for row, row_id in enumerate(split.row_ids)}
    rows = [(sample, row_of[sample.row]) for sample in request.requested]
    problem = PROBLEMS[request.problem]
    if problem.annotation_column is None:
        return _document(request, split, rows, folder / "answers.json")
    file = folder / "answers.csv"
    with file.open("w", newline="", encoding="utf-8") as opened:
        writer = csv.writer(opened)
        writer.writerow(["row", problem.annotation_column])
        for sample, row in rows:
            answer = problem.labelling.from_truth(split, row, request, sample)
            if not isinstance(answer, str):
                Image.fromarray(answer).save(folder / f"{sample.row}.png")
                answer = f"{sample.row}.png"
            writer.writerow([sample.row, answer])
    return file


def _document(
    request: Request, split: Split, rows: list[tuple[RequestedRow, int]], file: Path
) -> Path:
    """One image of the document a row, so that persons of one picture stay apart."""
    labelling = PROBLEMS[request.problem].labelling
    names = split.classes if isinstance(split.classes, tuple) else request.classes
    images, annotations = [], list[dict[str, Any]]()
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
        parts = labelling.from_truth(split, row, request, sample)
        annotations += [{"id": 0, "image_id": number} | part for part in parts]
    categories = labelling.document_categories(names)
    document = {"images": images, "annotations": annotations, "categories": categories}
    file.write_text(json.dumps(document), encoding="utf-8")
    return file
