"""A request for labels as tools read it: Label Studio, CVAT (COCO JSON) and a plain CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from sfda.annotation.problems import LABELLING
from sfda.annotation.request import FILE, Guess, Request

LOCAL = "/data/local-files/?d="  # how Label Studio addresses files below its document root
Guesses = Mapping[str, Guess]  # by row


def documents(request: Request, guesses: Guesses) -> dict[str, bytes]:
    """All files of a request by name."""
    return {
        FILE: (request.model_dump_json(indent=1) + "\n").encode(),
        "label_studio.json": _json(label_studio(request, guesses)),
        "label_studio.xml": label_config(request).encode(),
        "cvat_coco.json": _json(coco(request, guesses)),
        "request.csv": _csv(request, guesses),
    }


def label_config(request: Request) -> str:
    """Label Studio's labelling interface for this request."""
    body = LABELLING[request.problem].control(request)
    return f'<View>\n  <Image name="image" value="$image"/>\n{body}\n</View>\n'


def label_studio(request: Request, guesses: Guesses) -> list[dict[str, Any]]:
    """Tasks with the model's answers as predictions, the most wanted sample first."""
    kind = LABELLING[request.problem]
    return [
        {
            "data": {"image": LOCAL + quote(wanted.file), "row": wanted.row, "file": wanted.key},
            "predictions": [
                {
                    "model_version": request.model_sha256[:12],
                    "score": wanted.confidence,
                    "result": kind.results(request, wanted, guesses.get(wanted.row, Guess())),
                }
            ],
        }
        for wanted in request.wanted
    ]


def coco(request: Request, guesses: Guesses) -> dict[str, Any]:
    """COCO JSON as CVAT imports it. Several rows may share a picture."""
    kind = LABELLING[request.problem]
    images: dict[str, dict[str, Any]] = {}
    annotations: list[dict[str, Any]] = []
    for wanted in request.wanted:
        image = images.setdefault(
            wanted.file,
            {
                "id": len(images) + 1, "file_name": wanted.file, "height": wanted.height,
                "width": wanted.width, "row": wanted.row,
            },
        )  # fmt: skip
        if image.get("row") != wanted.row:
            image.pop("row", None)
        for entry in kind.annotations(request, wanted, guesses.get(wanted.row, Guess())):
            annotations.append({"id": len(annotations) + 1, "image_id": image["id"], **entry})
    return {
        "images": list(images.values()),
        "annotations": annotations,
        "categories": kind.categories(request),
    }


def _csv(request: Request, guesses: Guesses) -> bytes:
    kind = LABELLING[request.problem]
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["row", request.column, "image", *kind.header])
    for wanted in request.wanted:
        for line in kind.lines(request, wanted, guesses.get(wanted.row, Guess())):
            writer.writerow([wanted.row, wanted.key, wanted.file, *line])
    return text.getvalue().encode()


def _json(value: Sequence[Any] | Mapping[str, Any]) -> bytes:
    return json.dumps(value, indent=1, ensure_ascii=False).encode()
