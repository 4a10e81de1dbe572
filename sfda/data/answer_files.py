"""The files of a manifest's next version: its answers old and new, and the manifest itself.

Classes and masks stand in a CSV; boxes and joints in a COCO JSON whose images are the answered
rows, by their keys.
"""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import tempfile
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import yaml
from PIL import Image

from sfda.boxes import BoxLabels
from sfda.data.digests import bytes_digest
from sfda.data.labelling._base import Answer
from sfda.data.labels import listed
from sfda.data.masks import Mask
from sfda.data.people import Person
from sfda.data.requests import Request, WantedRow
from sfda.data.rows import read_csv
from sfda.data.schema import AnswersSpec, Manifest
from sfda.data.writing import put
from sfda.errors import BadInput

Found = dict[str, tuple[WantedRow, Answer]]


def put_version(manifest: Manifest, request: Request, found: Found, out: Path) -> int:
    """Write the manifest with these answers beside its earlier ones; how many there are then.

    Raises BadInput where `out` exists, or holds answers in other classes.
    """
    if out.suffix not in (".yaml", ".yml"):
        raise BadInput(f"a manifest is a .yaml file, {out} is not named like one")
    if out.exists():
        raise BadInput(f"{out} exists already; name another file with --out")
    old = manifest.splits[request.split].answers
    if old and old.classes != request.classes:
        raise BadInput(
            f"{manifest.path} has answers in the classes {listed(old.classes)}, the request in "
            f"{listed(request.classes)}; ask again with the same model's classes"
        )
    images: dict[str, Mask | Path] = {}
    masks = out.with_suffix(".masks")
    if manifest.problem in ("detection", "pose"):
        table = out.with_suffix(".answers.json")
        content, total = _document_of(manifest, old, request, found)
    else:
        table = out.with_suffix(".answers.csv")
        content, total = _table_of(manifest, old, request, found, masks.name, images)
    entry = {
        "rows": table.name, "sha256": bytes_digest(content), "count": total,
        "classes": list(request.classes),
    }  # fmt: skip
    files: dict[Path, bytes] = {table: content}
    document = _manifest(manifest, request.split, entry, out, files)
    files[out] = yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=100).encode()
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        if images:
            _put_masks(images, masks)
        put(files)
    except OSError as error:
        raise BadInput(f"cannot write {out}: {error}") from None
    return total


def _table_of(
    manifest: Manifest, old: AnswersSpec | None, request: Request, found: Found, masks: str,
    images: dict[str, Mask | Path],
) -> tuple[bytes, int]:  # fmt: skip
    """The CSV, how many rows it has, and, into `images`, the masks that it names."""
    what = "mask" if manifest.problem == "segmentation" else "class"
    rows: list[tuple[str, str]] = []
    if old:
        place = manifest.path.parent / old.rows
        for row in read_csv(place)[0]:
            value = row[what]
            if what == "mask":
                images[PurePosixPath(value).name] = place.parent / value
                value = f"{masks}/{PurePosixPath(value).name}"
            rows.append((row[request.column], value))
    for wanted, answer in found.values():
        if isinstance(answer, str):
            rows.append((wanted.key, answer))
            continue
        assert isinstance(answer, np.ndarray)
        images[f"{wanted.row}.png"] = answer
        rows.append((wanted.key, f"{masks}/{wanted.row}.png"))
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([request.column, what])
    writer.writerows(rows)
    return text.getvalue().encode(), len(rows)


def _document_of(
    manifest: Manifest, old: AnswersSpec | None, request: Request, found: Found
) -> tuple[bytes, int]:
    """The COCO JSON, and how many rows it answers."""
    posed = manifest.problem == "pose"
    categories = [{"id": i, "name": name} for i, name in enumerate(request.classes)]
    if posed:
        categories = [{"id": 0, "name": "person", "keypoints": list(request.classes)}]
    document: dict[str, list[dict[str, Any]]] = {
        "images": [], "annotations": [], "categories": categories
    }  # fmt: skip
    if old:
        kept = json.loads((manifest.path.parent / old.rows).read_bytes())
        document |= {name: kept[name] for name in ("images", "annotations")}
    for wanted, answer in found.values():
        number = len(document["images"])
        document["images"].append({"id": number, "file_name": wanted.key})
        parts = _person(answer) if isinstance(answer, Person) else _boxes(answer)
        for part in parts:
            place = {"id": len(document["annotations"]), "image_id": number}
            document["annotations"].append(place | part)
    return json.dumps(document, ensure_ascii=False).encode(), len(document["images"])


def _boxes(answer: Answer) -> list[dict[str, Any]]:
    assert isinstance(answer, BoxLabels)
    return [
        {"category_id": int(label), "bbox": [x1, y1, x2 - x1, y2 - y1]}
        for (x1, y1, x2, y2), label in zip(answer.boxes.tolist(), answer.labels, strict=True)
    ]


def _person(answer: Person) -> list[dict[str, Any]]:
    table = np.column_stack([answer.joints, 2 * answer.visible])
    return [{"category_id": 0, "keypoints": table.ravel().tolist()}]


def _put_masks(images: dict[str, Mask | Path], masks: Path) -> None:
    part = Path(tempfile.mkdtemp(dir=masks.parent, prefix=f".{masks.name}."))
    try:
        part.chmod(0o755)
        for name, mask in images.items():
            if isinstance(mask, Path):
                shutil.copyfile(mask, part / name)
            else:
                Image.fromarray(mask).save(part / name)
        shutil.rmtree(masks, ignore_errors=True)  # of a start that was killed: no manifest names it
        part.rename(masks)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _manifest(
    manifest: Manifest, split: str, entry: dict[str, Any], out: Path, files: dict[Path, bytes]
) -> dict[str, Any]:
    """The manifest's own file with one more version and the answers; paths as seen from `out`."""
    document: dict[str, Any] = yaml.safe_load(manifest.path.read_text(encoding="utf-8"))
    document["version"] = manifest.version + 1
    here, there = manifest.path.parent.resolve(), out.parent.resolve()
    for name, spec in manifest.splits.items():
        given = dict(document["splits"][name])
        row_file = manifest.rows_path(spec)
        if row_file and here != there and row_file.parent.resolve() == here:
            files.setdefault(out.parent / row_file.name, row_file.read_bytes())
        document["splits"][name] = given
    document["splits"][split]["answers"] = entry
    if here != there and str(document["root"]).startswith("."):
        relative = Path(os.path.relpath(manifest.location.resolve(), there)).as_posix()
        document["root"] = relative if relative.startswith(".") else f"./{relative}"
    return document
