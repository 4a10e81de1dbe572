"""Pascal VOC's XML files as one COCO JSON."""

from __future__ import annotations

from collections import Counter
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from sfda.authoring.conversion.coco_document import (
    Conversion,
    ConvertedBox,
    ConvertedImage,
    ImagesBelow,
    write_coco,
)
from sfda.bounds.files import read_bounded
from sfda.bounds.limits import EXPORT_BYTES
from sfda.documents import cut_off, parse_xml
from sfda.errors import BadInput, listed
from sfda.formats.coco import is_number
from sfda.sandbox.crossing import all_inside

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

SWAPPED = "boxes had their corners swapped (xmin above xmax, or ymin above ymax), and were turned"

FROM_ZERO = "boxes begin at pixel 0, but VOC counts from 1: taken so, and cut at the image's edge"


def convert_voc(folder: Path, out: Path, classes: tuple[str, ...] | None = None) -> dict[str, Any]:
    """Pascal VOC's XML files below `folder` as one COCO JSON at `out`; counts of what it holds.

    Corners are pixels counted from 1, the last included, so 1 is taken from xmin and ymin; swapped
    ones are turned. Objects marked difficult become `iscrowd` (ignored by metrics). Classes are
    those named, or all that occur, sorted. An image is the one that `filename` names; where there
    is none, or several XMLs name it, the one that is called as the XML.

    Raises BadInput naming every file that cannot be read, and every class that was not named.
    """
    files = all_inside(folder, sorted(folder.rglob("*.xml")))
    if not files:
        raise BadInput(f"{folder} holds no .xml files of Pascal VOC")
    conversion = Conversion()
    parsed = [(file, image) for file in files if (image := _read_voc(file, conversion)) is not None]
    there = sorted({box.label for _, image in parsed for box in image.boxes})
    names = classes or tuple(there)
    if foreign := [name for name in there if name not in names]:
        conversion.faults.append(f"objects of classes that were not named: {listed(foreign)}")
    images = _with_files(parsed, folder, conversion)
    if conversion.faults:
        raise BadInput(f"{folder}: " + listed(conversion.faults, "; "))
    return write_coco(images, names, out, conversion)


def _with_files(
    parsed: list[tuple[Path, ConvertedImage]], folder: Path, conversion: Conversion
) -> list[ConvertedImage]:
    """Each image under the path of its file below the folder. Two of one path are a fault."""
    below = ImagesBelow(folder)
    prefix = "JPEGImages/" if (folder / "JPEGImages").is_dir() else ""
    claims = Counter(image.file for _, image in parsed)
    images = []
    for file, image in parsed:
        beside = file.parent.relative_to(folder)
        stated = image.file.replace("\\", "/").removeprefix("./")
        last = PurePosixPath(stated).name
        near = beside.as_posix()
        alone = claims[image.file] == 1
        key = below.one_of((stated, prefix + stated, prefix + last, str(beside / last)))
        key = key or below.of_stem(PurePosixPath(stated).stem, near)
        if key is None or not alone:
            by_name = below.of_stem(file.stem, near)
            if by_name and by_name != key:
                key = by_name
                conversion.note("XMLs name an image that is not theirs: taken by their own names")
        if key is None:
            key = prefix + stated
            if below.keys:
                conversion.note(f"images are not in {folder}")
        images.append(image._replace(file=key))
    twice = [key for key, times in Counter(image.file for image in images).items() if times > 1]
    if twice:
        conversion.faults.append(f"images that several XMLs are of: {listed(twice)}")
    return images


def _read_voc(file: Path, conversion: Conversion) -> ConvertedImage | None:
    """One image and its objects, or a fault."""
    try:
        root = parse_xml(read_bounded(file, EXPORT_BYTES))
        boxes = [_box(item, conversion) for item in root.iter("object")]
        name = (root.findtext("filename") or "").strip()
        if not name:
            name = f"{file.stem}{PurePosixPath((root.findtext('path') or '').strip()).suffix}"
        return ConvertedImage(name, _size(root.find("size")), boxes)
    except (ValueError, OSError, LookupError) as error:
        conversion.faults.append(f"{file.name} ({cut_off(str(error), 300)})")
        return None


def _size(size: Element | None) -> tuple[int, int] | None:
    """Width and height; None where they are not stated, or 0."""
    if size is None:
        return None
    width, height = (_number(size, key) for key in ("width", "height"))
    if width % 1 or height % 1:
        raise ValueError(f"a size of {width:g} x {height:g} pixels")
    return (int(width), int(height)) if min(width, height) > 0 else None


def _box(item: Element, conversion: Conversion) -> ConvertedBox:
    box = item.find("bndbox")
    if box is None:
        raise ValueError("an object has no bndbox")
    x1, y1, x2, y2 = (_number(box, key) for key in ("xmin", "ymin", "xmax", "ymax"))
    if x1 > x2 or y1 > y2:
        conversion.note(SWAPPED)
        x1, x2, y1, y2 = *sorted((x1, x2)), *sorted((y1, y2))
    if x1 < 1 or y1 < 1:
        conversion.note(FROM_ZERO)
    difficult = item.findtext("difficult", "0").strip() == "1"
    bbox = [x1 - 1, y1 - 1, x2 - x1 + 1, y2 - y1 + 1]
    return ConvertedBox(_text(item, "name"), bbox, int(difficult))


def _number(element: Element, key: str) -> float:
    text = _text(element, key)
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not is_number(value):
        raise ValueError(f"{key} is no number: {cut_off(text)}")
    return value


def _text(element: Element, key: str) -> str:
    text = element.findtext(key)
    if text is None or not text.strip():
        raise ValueError(f"no {key}")
    return text.strip()
