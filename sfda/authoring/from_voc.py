"""Pascal VOC's XML files as one COCO JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sfda.bounds.files import read_bounded
from sfda.bounds.limits import EXPORT_BYTES
from sfda.documents import cut_off, parse_xml
from sfda.errors import BadInput, listed
from sfda.manifests.write import write_files

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element


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
    parsed = [entry for file in files if (entry := _read_voc(file, faults)) is not None]
    there = sorted({name for _, objects in parsed for name, *_ in objects})
    names = classes or tuple(there)
    if foreign := [name for name in there if name not in names]:
        faults.append(f"objects of classes that were not named: {listed(foreign)}")
    if faults:
        raise BadInput(f"{folder}: " + listed(faults, "; "))
    prefix = "JPEGImages/" if (folder / "JPEGImages").is_dir() else ""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, (image, objects) in enumerate(parsed, start=1):
        images.append({"id": number, **image, "file_name": prefix + image["file_name"]})
        for name, box, difficult in objects:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": names.index(name) + 1,
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": difficult,
                }
            )
    categories = [{"id": i, "name": name} for i, name in enumerate(names, start=1)]
    document = {"images": images, "annotations": annotations, "categories": categories}
    write_files({out: json.dumps(document).encode()}, out)
    return {"images": len(images), "boxes": len(annotations), "classes": list(names)}


def _read_voc(
    file: Path, faults: list[str]
) -> tuple[dict[str, Any], list[tuple[str, list[float], int]]] | None:
    """One image and its objects, or a fault."""
    try:
        root = parse_xml(read_bounded(file, EXPORT_BYTES))
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
    except (ValueError, OSError, LookupError) as error:
        faults.append(f"{file.name} ({cut_off(str(error), 300)})")
        return None
    return image, objects


def _text(element: Element, key: str) -> str:
    text = element.findtext(key)
    if text is None or not text.strip():
        raise ValueError(f"no {key}")
    return text.strip()
