"""A request for labels as tools read it: Label Studio, CVAT (COCO JSON) and a plain CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from xml.sax.saxutils import quoteattr

import numpy as np
from pydantic import ValidationError

from sfda.config import Config
from sfda.data.brush import encode_brush
from sfda.data.masks import Mask
from sfda.errors import BadInput
from sfda.refs import Problem

FILE = "request.json"
LOCAL = "/data/local-files/?d="  # how Label Studio addresses files below its document root
TAGS = {"classification": "class", "segmentation": "mask"}  # names in its configuration


class WantedRow(Config):
    """One row that a person is asked about. `file` is below the data root, or below the request."""

    row: str  # its opaque id
    key: str  # path or index in the manifest
    file: str
    height: int
    width: int
    label: str | None = None  # the model's answer
    confidence: float


class Request(Config):
    """`request.json`: what was asked, of which target, and in whose eyes."""

    format: int = 1
    problem: Problem
    manifest: str  # its name
    manifest_sha256: str
    split: str
    column: str  # file or index
    classes: tuple[str, ...]  # what an answer may be
    by: str
    seed: int
    model: str
    model_sha256: str
    copied: bool  # whether the images lie below the request
    wanted: tuple[WantedRow, ...]


class Guess(NamedTuple):
    """What the model says of a wanted row's pixels, as indices of the request's classes."""

    mask: Mask


def read_request(folder: Path) -> Request:
    """The request in a folder. Raises BadInput."""
    try:
        return Request.model_validate_json((folder / FILE).read_bytes())
    except OSError:
        raise BadInput(
            f"{folder} holds no request ({FILE}); `sfda query ... --out DIR` writes one"
        ) from None
    except ValidationError as error:
        raise BadInput(f"{folder / FILE} is no request: {error.error_count()} faults") from None


def documents(request: Request, guesses: Mapping[str, Guess]) -> dict[str, bytes]:
    """All files of a request by name."""
    return {
        FILE: (request.model_dump_json(indent=1) + "\n").encode(),
        "label_studio.json": _json(label_studio(request, guesses)),
        "label_studio.xml": label_config(request).encode(),
        "cvat_coco.json": _json(coco(request, guesses)),
        "request.csv": _csv(request),
    }


def label_config(request: Request) -> str:
    """Label Studio's labelling interface for this request."""
    names = [quoteattr(name) for name in request.classes]
    if request.problem == "classification":
        inner = "\n".join(f"    <Choice value={name}/>" for name in names)
        body = f'  <Choices name="class" toName="image" choice="single">\n{inner}\n  </Choices>'
    else:
        inner = "\n".join(f"    <Label value={name}/>" for name in names)
        body = f'  <BrushLabels name="mask" toName="image">\n{inner}\n  </BrushLabels>'
    return f'<View>\n  <Image name="image" value="$image"/>\n{body}\n</View>\n'


def label_studio(request: Request, guesses: Mapping[str, Guess]) -> list[dict[str, Any]]:
    """Tasks with the model's answers as predictions, the surest label first to be corrected."""
    return [
        {
            "data": {"image": LOCAL + wanted.file, "row": wanted.row, "file": wanted.key},
            "predictions": [
                {
                    "model_version": request.model_sha256[:12],
                    "score": wanted.confidence,
                    "result": _results(request, wanted, guesses.get(wanted.row)),
                }
            ],
        }
        for wanted in request.wanted
    ]


def _results(request: Request, wanted: WantedRow, guess: Guess | None) -> list[dict[str, Any]]:
    size = {"original_width": wanted.width, "original_height": wanted.height, "image_rotation": 0}
    name = TAGS.get(request.problem, "mask")
    common = {"from_name": name, "to_name": "image"}
    if guess is None:
        value = {"choices": [wanted.label]}
        return [{"id": wanted.row, "type": "choices", "value": value, **common}]
    return [
        {
            "id": f"{wanted.row}-{index}",
            "type": "brushlabels",
            "value": {
                "format": "rle",
                "rle": encode_brush(guess.mask == index),
                "brushlabels": [request.classes[index]],
            },
            **common,
            **size,
        }
        for index in _present(request, guess)
    ]


def _present(request: Request, guess: Guess) -> list[int]:
    return [int(i) for i in np.unique(guess.mask) if i < len(request.classes)]


def coco(request: Request, guesses: Mapping[str, Guess]) -> dict[str, Any]:
    """COCO JSON as CVAT imports it. The class of an image is a box around all of it."""
    from pycocotools import mask as codec

    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, wanted in enumerate(request.wanted, start=1):
        images.append(
            {
                "id": number, "file_name": wanted.file, "height": wanted.height,
                "width": wanted.width, "row": wanted.row,
            }
        )  # fmt: skip
        guess = guesses.get(wanted.row)
        if guess is None:
            parts: list[tuple[int, dict[str, Any]]] = [
                (
                    request.classes.index(str(wanted.label)),
                    {
                        "bbox": [0, 0, wanted.width, wanted.height],
                        "area": wanted.width * wanted.height,
                        "segmentation": [],
                    },
                )
            ]
        else:
            parts = []
            for index in _present(request, guess):
                code = codec.encode(np.asfortranarray(guess.mask == index))
                where = {
                    "bbox": codec.toBbox(code).tolist(),
                    "area": float(codec.area(code)),
                    "segmentation": {"size": code["size"], "counts": code["counts"].decode()},
                }
                parts.append((index, where))
        for index, where in parts:
            annotations.append(
                {
                    "id": len(annotations) + 1, "image_id": number, "category_id": index + 1,
                    "iscrowd": int(guess is not None), "score": wanted.confidence, **where,
                }
            )  # fmt: skip
    categories = [{"id": i, "name": name} for i, name in enumerate(request.classes, start=1)]
    return {"images": images, "annotations": annotations, "categories": categories}


def _csv(request: Request) -> bytes:
    what = TAGS.get(request.problem, "mask")
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["row", request.column, "image", what, "model_says", "confidence"])
    for w in request.wanted:
        writer.writerow([w.row, w.key, w.file, "", w.label or "", f"{w.confidence:.4f}"])
    return text.getvalue().encode()


def image_name(row: str, key: str) -> str:
    """Where a copied image lies in a request.

    >>> image_name("23d7db97a075553d", "webcam/mug/frame_0001.jpg")
    'images/23d7db97a075553d.png'
    """
    return str(PurePosixPath("images", f"{row}.png"))


def _json(value: Sequence[Any] | Mapping[str, Any]) -> bytes:
    return json.dumps(value, indent=1, ensure_ascii=False).encode()
