"""Drawn pictures with COCO annotations as files: a zip, its row file and its manifest."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml

from sfda.errors import BadInput
from sfda.manifests.digests import bytes_digest
from sfda.manifests.write import put

EPOCH = (1980, 1, 1, 0, 0, 0)  # in the zip: the same bytes whenever they are made
Drawn = tuple[np.ndarray, list[dict[str, Any]]]  # a picture, and what is annotated in it


def as_bytes(image: np.ndarray) -> np.ndarray:
    """Numbers from 0 to 255 as uint8."""
    rounded: np.ndarray = image.clip(0, 255).round().astype(np.uint8)
    return rounded


def put_demo(folder: Path, files: Mapping[Path, bytes]) -> None:
    """Write a demo's files; what is there is replaced. Raises BadInput if it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        put(dict(files))
    except OSError as error:
        raise BadInput(f"cannot write the demo's data to {folder}: {error}") from None


def coco_files(
    folder: Path,
    name: str,
    sizes: Mapping[str, int],
    drawn: Iterable[Drawn],
    categories: list[dict[str, Any]],
    more: Mapping[str, Any],
) -> dict[Path, bytes]:
    """The files of one set, splits of `sizes` one after the other; `more` are manifest keys.

    An annotation needs neither id nor image; `bbox` is as in COCO.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    packed = io.BytesIO()
    splits = [split for split, count in sizes.items() for _ in range(count)]
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
        for number, (split, (picture, entries)) in enumerate(zip(splits, drawn, strict=True), 1):
            file = f"{number:04d}.png"
            done, png = cv2.imencode(".png", picture[..., ::-1])
            assert done
            archive.writestr(zipfile.ZipInfo(file, EPOCH), png.tobytes())
            height, width = picture.shape[:2]
            images.append(
                {"id": number, "file_name": file, "width": width, "height": height, "split": split}
            )
            for entry in entries:
                own = {"id": len(annotations) + 1, "image_id": number, "iscrowd": 0}
                annotations.append(own | entry)
    document = {"images": images, "annotations": annotations, "categories": categories}
    table = json.dumps(document).encode()
    entry = {"rows": f"{name}.json", "sha256": bytes_digest(table)}
    manifest: dict[str, Any] = {
        "name": name.replace("_", "/"),
        "version": 1,
        "origin": "drawn by sfda",
        "licence": "Apache-2.0",
        "root": ".",
        **more,
        "archive": {"file": f"{name}.zip", "sha256": bytes_digest(packed.getvalue())},
        "splits": {s: entry | {"where": s, "count": count} for s, count in sizes.items()},
    }
    return {
        folder / f"{name}.zip": packed.getvalue(),
        folder / f"{name}.json": table,
        folder / f"{name}.yaml": yaml.safe_dump(manifest, sort_keys=False).encode(),
    }
