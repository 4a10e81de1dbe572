"""A manifest for images with a COCO JSON beside them, and Pascal VOC's XML as such a JSON."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sfda.authoring.listing import Listing, list_images
from sfda.authoring.splits import stratify
from sfda.authoring.write import ALIASES, put_manifest
from sfda.errors import BadInput, listed
from sfda.formats.coco import box_table, document_faults, read_coco, size_faults
from sfda.manifests.digests import bytes_digest
from sfda.manifests.schema import Manifest
from sfda.manifests.write import put

KEPT = ("id", "file_name", "width", "height", "split", "labelled")  # of an image's entry


def write_coco_manifest(
    path: Path,
    annotations: Path,
    classes: tuple[str, ...] | int | None,
    out: Path,
    official: Manifest | None,
    fraction: float,
    data_root: Path | None,
) -> Path:
    """A manifest of the images in `path`, their boxes copied beside it as `<out>.rows.json`.

    Classes are the document's, in the order of their ids, unless `classes` name them. Images whose
    entry says `split` keep it. Else, with entries for all images, `fraction` of those is held out:
    `adapt` (alias `train`) and `test` (alias `val`); images without an entry are `adapt`, and those
    with one are `test`.

    Raises BadInput naming everything in the document that does not fit.
    """
    if out.suffix not in (".yaml", ".yml"):
        raise BadInput(f"a manifest is a .yaml file, {out} is not named like one")
    listing = list_images(path)
    if listing.image:
        raise BadInput(f"{path}: boxes go with image files in a folder or a zip, not with an npz")
    document = read_coco(annotations)
    names = classes if isinstance(classes, tuple) else _names(document)
    images = [dict(image) for image in document["images"]]
    _, faults = box_table(document, images, names)
    faults += document_faults(document) + absent(images, listing)
    if not faults:
        faults = size_faults(images, listing.reader([str(i["file_name"]) for i in images]))
    if faults:
        raise BadInput(f"{annotations}: " + listed(faults, "; "))
    entries = _with_splits(images, listing, fraction)
    table = json.dumps(
        {
            "images": [{k: image[k] for k in KEPT if k in image} for image in entries],
            "annotations": document["annotations"],
            "categories": document["categories"],
        }
    ).encode()
    row_file = out.with_suffix(".rows.json")
    splits = splits_of(
        [(str(i["split"]), i.get("labelled", True)) for i in entries], row_file.name,
        bytes_digest(table), alias="split" not in images[0],
    )  # fmt: skip
    return put_manifest(
        {row_file: table}, splits, listing, "detection", names, out, official, data_root
    )


def _names(document: Mapping[str, Any]) -> tuple[str, ...]:
    ordered = sorted(document["categories"], key=lambda c: (isinstance(c["id"], str), c["id"]))
    return tuple(str(category["name"]) for category in ordered)


def absent(images: Sequence[Mapping[str, Any]], listing: Listing) -> list[str]:
    """The fault of naming images that are not there, if it is one."""
    there = set(listing.keys)
    gone = [str(i["file_name"]) for i in images if str(i["file_name"]) not in there]
    return [f"images that are not in {listing.path}: {listed(gone)}"] if gone else []


def _with_splits(
    images: list[dict[str, Any]], listing: Listing, fraction: float
) -> list[dict[str, Any]]:
    """Every image of the listing, each with its split."""
    told = {str(image["file_name"]): image for image in images}
    if not images:
        raise BadInput("the annotations list no images")
    if all("split" in image for image in images):
        return images
    if len(told) == len(listing.keys):
        names = list(told)
        held = stratify(names, [""] * len(names), fraction)
        return [
            {**told[name], "split": "test" if out else "adapt"}
            for name, out in zip(names, held, strict=True)
        ]
    free = max((i["id"] for i in images if isinstance(i["id"], int)), default=0) + 1
    rest = [name for name in listing.keys if name not in told]
    more = [
        {"id": free + place, "file_name": name, "split": "adapt", "labelled": False}
        for place, name in enumerate(rest)
    ]
    return [{**image, "split": "test"} for image in images] + more


def splits_of(
    rows: Sequence[tuple[str, bool]], row_file: str, sha256: str, *, alias: bool
) -> dict[str, dict[str, Any]]:
    """Entries of a manifest's splits, of the split of each row and whether it has its labels."""
    entry = {"rows": row_file, "sha256": sha256}
    splits: dict[str, dict[str, Any]] = {}
    whole = all(labelled for _, labelled in rows)
    for name in dict.fromkeys(name for name, _ in rows):
        count = sum(own == name for own, _ in rows)
        for split in (name, ALIASES[name]) if alias and whole and name in ALIASES else (name,):
            splits[split] = entry | {"where": name, "count": count}
    return splits


def convert_voc(folder: Path, out: Path, classes: tuple[str, ...] | None = None) -> dict[str, Any]:
    """Pascal VOC's XML files below `folder` as one COCO JSON at `out`; counts of what it holds.

    Corners are pixels counted from 1, the last included, so 1 is taken from xmin and ymin. Objects
    marked difficult become `iscrowd` (ignored by metrics). Classes are those named, or all that
    occur, sorted. File names are the XMLs' `filename`; where VOC's own folders are found, below
    `JPEGImages/`.

    Raises BadInput naming every file that cannot be read, and every class that was not named.
    """
    files = sorted(folder.rglob("*.xml"))
    if not files:
        raise BadInput(f"{folder} holds no .xml files of Pascal VOC")
    faults: list[str] = []
    found = [entry for file in files if (entry := _read_voc(file, faults)) is not None]
    there = sorted({name for _, objects in found for name, *_ in objects})
    names = classes or tuple(there)
    if foreign := [name for name in there if name not in names]:
        faults.append(f"objects of classes that were not named: {listed(foreign)}")
    if faults:
        raise BadInput(f"{folder}: " + listed(faults, "; "))
    prefix = "JPEGImages/" if (folder / "JPEGImages").is_dir() else ""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, (image, objects) in enumerate(found, start=1):
        images.append({"id": number, **image, "file_name": prefix + image["file_name"]})
        for name, box, difficult in objects:
            annotations.append(
                {
                    "id": len(annotations) + 1, "image_id": number,
                    "category_id": names.index(name) + 1, "bbox": box, "area": box[2] * box[3],
                    "iscrowd": difficult,
                }
            )  # fmt: skip
    categories = [{"id": i, "name": name} for i, name in enumerate(names, start=1)]
    document = {"images": images, "annotations": annotations, "categories": categories}
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        put({out: json.dumps(document).encode()})
    except OSError as error:
        raise BadInput(f"cannot write {out}: {error}") from None
    return {"images": len(images), "boxes": len(annotations), "classes": list(names)}


def _read_voc(
    file: Path, faults: list[str]
) -> tuple[dict[str, Any], list[tuple[str, list[float], int]]] | None:
    """One image and its objects, or a fault."""
    try:
        root = ET.parse(file).getroot()
        size = root.find("size")
        image: dict[str, Any] = {"file_name": _text(root, "filename")}
        if size is not None:
            image |= {"width": int(_text(size, "width")), "height": int(_text(size, "height"))}
        objects = []
        for item in root.iter("object"):
            box = item.find("bndbox")
            if box is None:
                raise ValueError("an object has no bndbox")
            x1, y1, x2, y2 = (float(_text(box, key)) for key in ("xmin", "ymin", "xmax", "ymax"))
            corner = [x1 - 1, y1 - 1, x2 - x1 + 1, y2 - y1 + 1]
            difficult = item.findtext("difficult", "0").strip() == "1"
            objects.append((_text(item, "name"), corner, int(difficult)))
    except (ET.ParseError, ValueError, OSError, LookupError) as error:
        faults.append(f"{file.name} ({error})")
        return None
    return image, objects


def _text(element: ET.Element, key: str) -> str:
    found = element.findtext(key)
    if found is None or not found.strip():
        raise ValueError(f"no {key}")
    return found.strip()
