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

from sfda.annotation.problems._base import Answer
from sfda.annotation.request import Request, WantedRow
from sfda.building_blocks.boxes import BoxLabels
from sfda.errors import BadInput, listed
from sfda.formats.keypoints import Person
from sfda.formats.masks import Mask
from sfda.manifests.digests import bytes_digest, file_digest, row_id
from sfda.manifests.schema import Manifest
from sfda.manifests.table import read_csv
from sfda.manifests.write import put

Found = dict[str, tuple[WantedRow, Answer]]
Part = dict[str, Any]
Kept = dict[str, str | Mask | Path | list[Part]]
"""Answers as they are filed, by key: a class, a mask or its file, COCO's annotations."""
Filed = dict[str, tuple[tuple[str, ...], Kept]]
"""Answers and what they may be, by split."""


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
    kept = kept_answers(manifest, request.split)
    kept |= {wanted.key: _filed(answer) for wanted, answer in found.values()}
    filed: Filed = {}
    if not _beside(manifest, out):  # those of other splits come along
        filed = {
            name: (spec.answers.classes, kept_answers(manifest, name))
            for name, spec in manifest.splits.items()
            if spec.answers
        }
    filed[request.split] = (request.classes, kept)
    _put(manifest, filed, out, version=manifest.version + 1)
    return len(kept)


def put_answers(manifest: Manifest, filed: Filed) -> None:
    """Write answers into a manifest that has none, in its place. Raises BadInput."""
    _put(manifest, filed, manifest.path, version=manifest.version)


def kept_answers(manifest: Manifest, split: str) -> Kept:
    """The answers of a split as they are filed. Raises BadInput where they are not as they were."""
    spec = manifest.splits[split].answers
    if spec is None:
        return {}
    place = manifest.path.parent / spec.rows
    if not place.is_file() or file_digest(place) != spec.sha256:
        raise BadInput(f"file of answers {place} is missing, or not the one that was written")
    if place.suffix == ".json":
        document = json.loads(place.read_bytes())
        parts: dict[Any, list[Part]] = {image["id"]: [] for image in document["images"]}
        for one in document["annotations"]:
            own = {k: v for k, v in one.items() if k not in ("id", "image_id")}
            parts[one["image_id"]].append(own)
        return {image["file_name"]: parts[image["id"]] for image in document["images"]}
    key = "index" if manifest.arrays else "file"
    rows, _ = read_csv(place)
    if manifest.problem == "segmentation":
        masks: Kept = {row[key]: place.parent / row["mask"] for row in rows}
        if gone := [str(mask) for mask in masks.values() if not Path(str(mask)).is_file()]:
            raise BadInput(f"masks that were answered are missing: {listed(gone)}")
        return masks
    return {row[key]: row["class"] for row in rows}


def _filed(answer: Answer) -> str | Mask | list[Part]:
    if isinstance(answer, Person):
        table = np.column_stack([answer.joints, 2 * answer.visible])
        return [{"category_id": 0, "keypoints": table.ravel().tolist()}]
    if isinstance(answer, BoxLabels):
        return [
            {"category_id": int(label), "bbox": [x1, y1, x2 - x1, y2 - y1]}
            for (x1, y1, x2, y2), label in zip(answer.boxes.tolist(), answer.labels, strict=True)
        ]
    return answer


def _put(manifest: Manifest, filed: Filed, out: Path, *, version: int) -> None:
    pictures: dict[Path, dict[str, Mask | Path]] = {}
    files: dict[Path, bytes] = {}
    entries: dict[str, Part] = {}
    for split, (classes, kept) in filed.items():
        own = "" if split == "adapt" else f".{split}"
        if manifest.problem in ("detection", "pose"):
            table = out.with_suffix(f"{own}.answers.json")
            content = _document_of(manifest, classes, kept)
        else:
            table, masks = (out.with_suffix(f"{own}{end}") for end in (".answers.csv", ".masks"))
            content = _table_of(manifest, kept, masks.name, pictures.setdefault(masks, {}))
        files[table] = content
        entries[split] = {
            "rows": table.name, "sha256": bytes_digest(content), "count": len(kept),
            "classes": list(classes),
        }  # fmt: skip
    document = _manifest(manifest, entries, out, files) | {"version": version}
    files[out] = yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=100).encode()
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        for masks, images in pictures.items():
            if images:
                _put_masks(images, masks)
        put(files)
    except OSError as error:
        raise BadInput(f"cannot write {out}: {error}") from None


def _table_of(manifest: Manifest, kept: Kept, masks: str, images: dict[str, Mask | Path]) -> bytes:
    """The CSV, and, into `images`, the masks that it names, each after its row."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    key, what = ("index" if manifest.arrays else "file"), "class"
    if manifest.problem == "segmentation":
        what = "mask"
    writer.writerow([key, what])
    for name, answer in kept.items():
        if not isinstance(answer, str):
            assert not isinstance(answer, list)
            file = f"{row_id(f'{manifest.arrays.image}:{name}' if manifest.arrays else name)}.png"
            images[file] = answer
            answer = f"{masks}/{file}"
        writer.writerow([name, answer])
    return text.getvalue().encode()


def _document_of(manifest: Manifest, classes: tuple[str, ...], kept: Kept) -> bytes:
    """The COCO JSON."""
    categories: list[Part] = [{"id": i, "name": name} for i, name in enumerate(classes)]
    if manifest.problem == "pose":
        categories = [{"id": 0, "name": "person", "keypoints": list(classes)}]
    images, annotations = [], []
    for number, (name, parts) in enumerate(kept.items()):
        assert isinstance(parts, list)
        images.append({"id": number, "file_name": name})
        annotations += [{"image_id": number} | part for part in parts]
    annotations = [{"id": number} | part for number, part in enumerate(annotations)]
    document = {"images": images, "annotations": annotations, "categories": categories}
    return json.dumps(document, ensure_ascii=False).encode()


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


def _beside(manifest: Manifest, out: Path) -> bool:
    return manifest.path.parent.resolve() == out.parent.resolve()


def _manifest(
    manifest: Manifest, entries: dict[str, Part], out: Path, files: dict[Path, bytes]
) -> dict[str, Any]:
    """The manifest's own file with the answers; paths as seen from `out`."""
    document: dict[str, Any] = yaml.safe_load(manifest.path.read_text(encoding="utf-8"))
    here, there = manifest.path.parent.resolve(), out.parent.resolve()
    for name, spec in manifest.splits.items():
        given = dict(document["splits"][name])
        row_file = manifest.rows_path(spec)
        if row_file and here != there and row_file.parent.resolve() == here:
            content = row_file.read_bytes()
            place = _room_for(content, out, row_file.name)
            files[place] = content
            given["rows"] = place.name
        if name in entries:
            given["answers"] = entries[name]
        document["splits"][name] = given
    root = str(document["root"])
    if here != there and (root.startswith(".") or PurePosixPath(root).is_absolute()):
        relative = Path(os.path.relpath(manifest.location.resolve(), there)).as_posix()
        document["root"] = relative if relative.startswith(".") else f"./{relative}"
    return document


def _room_for(content: bytes, out: Path, name: str) -> Path:
    """Where a copy of a row file may lie beside `out`: another manifest's is never replaced."""
    for place in (out.parent / name, out.parent / f"{out.stem}.{name}"):
        if not place.exists() or place.read_bytes() == content:
            return place
    raise BadInput(f"{out.parent} holds another {name} already; name another folder with --out")
