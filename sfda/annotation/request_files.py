"""A request for labels as tools read it: Label Studio, CVAT (COCO JSON) and a plain CSV."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from sfda.formats.request import REQUEST_FILE, Guess, Request
from sfda.formats.table import csv_bytes
from sfda.problems.registry import PROBLEMS

LOCAL = "/data/local-files/?d="  # how Label Studio addresses files below its document root
Guesses = Mapping[str, Guess]  # by row


def documents(request: Request, guesses: Guesses) -> dict[str, bytes]:
    """All files of a request by name."""
    return {
        REQUEST_FILE: (request.model_dump_json(indent=1, by_alias=True) + "\n").encode(),
        "label_studio.json": _json(label_studio(request, guesses)),
        "label_studio.xml": label_config(request).encode(),
        "cvat_coco.json": _json(coco(request, guesses)),
        "request.csv": _csv(request, guesses),
    }


def label_config(request: Request) -> str:
    """Label Studio's labelling interface for this request."""
    body = PROBLEMS[request.problem].labelling.control(request)
    return f'<View>\n  <Image name="image" value="$image"/>\n{body}\n</View>\n'


def label_studio(request: Request, guesses: Guesses) -> list[dict[str, Any]]:
    """Tasks with the model's answers as predictions, the most wanted sample first."""
    kind = PROBLEMS[request.problem].labelling
    return [
        {
            "data": {"image": LOCAL + quote(sample.file), "row": sample.row, "file": sample.key},
            "predictions": [
                {
                    "model_version": request.model_sha256[:12],
                    "score": sample.confidence,
                    "result": kind.results(request, sample, guesses.get(sample.row)),
                }
            ],
        }
        for sample in request.requested
    ]


def coco(request: Request, guesses: Guesses) -> dict[str, Any]:
    """COCO JSON as CVAT imports it. Several rows may share a picture."""
    kind = PROBLEMS[request.problem].labelling
    images: dict[str, dict[str, Any]] = {}
    annotations: list[dict[str, Any]] = []
    for sample in request.requested:
        image = images.setdefault(
            sample.file,
            {
                "id": len(images) + 1,
                "file_name": sample.file,
                "height": sample.height,
                "width": sample.width,
                "row": sample.row,
            },
        )
        if image.get("row") != sample.row:
            image.pop("row", None)
        for entry in kind.coco_entries(request, sample, guesses.get(sample.row)):
            annotations.append({"id": len(annotations) + 1, "image_id": image["id"], **entry})
    return {
        "images": list(images.values()),
        "annotations": annotations,
        "categories": kind.categories(request),
    }


def _csv(request: Request, guesses: Guesses) -> bytes:
    kind = PROBLEMS[request.problem].labelling
    lines: list[Sequence[Any]] = [("row", request.column, "image", *kind.header)]
    for sample in request.requested:
        own = kind.lines(request, sample, guesses.get(sample.row))
        lines += [(sample.row, sample.key, sample.file, *line) for line in own]
    return csv_bytes(lines)


def _json(value: Sequence[Any] | Mapping[str, Any]) -> bytes:
    return json.dumps(value, indent=1, ensure_ascii=False).encode()
