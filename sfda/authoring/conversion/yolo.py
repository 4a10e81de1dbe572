"""YOLO's folder of text files as one COCO JSON."""

from __future__ import annotations

import math
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from sfda.authoring.conversion.class_files import names_beside
from sfda.authoring.conversion.coco_document import (
    Conversion,
    ConvertedBox,
    ConvertedImage,
    ImagesBelow,
    write_coco,
)
from sfda.bounds.files import read_bounded
from sfda.bounds.limits import EXPORT_BYTES, LIST_BYTES
from sfda.documents import cut_off, decoded, parse_yaml
from sfda.errors import BadInput, listed
from sfda.formats.readers import FileReader, Folder
from sfda.sandbox.crossing import all_inside

OVER_SHARE = 0.01  # so much a share may lie beyond 0 and 1: what rounding makes of it
NO_IMAGE = "files of boxes have no image of their name, and were left out"
NO_TEXT = (
    "images have no .txt file: nobody says what is in them, so they are left out (--empty: "
    "nothing is in them)"
)


class _Reading(NamedTuple):
    """How lines are read: the classes by number, and numbers a line has behind its box."""

    names: tuple[str, ...]
    joints: int  # numbers of key points; 0 for none


def convert_yolo(
    folder: Path, out: Path, classes: tuple[str, ...] | None = None, *, empty: bool = False
) -> dict[str, Any]:
    """YOLO's text files below `folder` as one COCO JSON at `out`; counts of what it holds.

    A line is a class's number and, as shares of the image, the box's centre, width and height; or
    a polygon's corners, whose surrounding box is taken. A sixth number is the confidence of a
    model's box. Images and text files lie in folders `images` and `labels`, or side by side.
    Classes are those named, or those of `data.yaml`, `classes.txt` or a `.names` file. A text file
    without a line says that nothing is in its image; `empty`: so does an image without one.

    Raises BadInput naming every line that cannot be read.
    """
    if folder.is_file() and folder.suffix.lower() in (".yaml", ".yml"):
        folder = folder.parent
    if not folder.is_dir():
        raise BadInput(f"{folder} is no folder; unpack the archive, and give the folder")
    below = ImagesBelow(folder)
    if not below.keys:
        raise BadInput(
            f"{folder} holds no images: YOLO's boxes are shares of the image, so its size is "
            "needed; give the folder that holds `images` and `labels`"
        )
    names = classes or _names(folder)
    conversion = Conversion()
    texts = _texts(folder, below, conversion)
    if not texts:
        raise BadInput(f"{folder} holds no .txt file that is called as one of its images is")
    sizes = FileReader(Folder(folder), tuple(below.keys))
    reading = _Reading(names, _joint_numbers(folder))
    images = []
    for row, key in enumerate(below.keys):
        if key not in texts:
            conversion.note(
                "images have no .txt file, and are taken as without an object" if empty else NO_TEXT
            )
            if not empty:
                continue
        height, width = sizes.size(row)
        file = texts.get(key)
        boxes = _boxes(folder, file, reading, (width, height), conversion) if file else []
        images.append(ConvertedImage(key, (width, height), boxes))
    if conversion.faults:
        raise BadInput(f"{folder}: " + listed(conversion.faults, "; "))
    return write_coco(images, names, out, conversion)


def _names(folder: Path) -> tuple[str, ...]:
    listing = names_beside(folder)
    if listing is None:
        raise BadInput(
            f"{folder} says of no class what it is called (no data.yaml with `names`, no "
            "classes.txt, no obj.names); name them in the order of their numbers: --classes a,b,c "
            "or --classes-file FILE"
        )
    return listing[1]


def _joint_numbers(folder: Path) -> int:
    """Numbers of key points behind each box, as `kpt_shape` in a YAML says."""
    for path in all_inside(folder, sorted(folder.glob("*.y*ml"))):
        try:
            document = parse_yaml(decoded(read_bounded(path, LIST_BYTES)))
        except (OSError, ValueError):
            continue
        shape = document.get("kpt_shape") if isinstance(document, dict) else None
        if isinstance(shape, list) and len(shape) == 2 and all(isinstance(n, int) for n in shape):
            return int(math.prod(shape))
    return 0


def _texts(folder: Path, below: ImagesBelow, conversion: Conversion) -> dict[str, Path]:
    """The text file of each image that has one: beside it, or in a folder `labels` where the image
    lies in one called `images`, or else of its name.
    """
    texts: dict[str, Path] = {}
    spots = {_spot(key): key for key in reversed(below.keys)}
    for file in all_inside(folder, sorted(folder.rglob("*.txt"))):
        path = file.relative_to(folder)
        if any(part.startswith(".") for part in path.parts):
            continue
        key = spots.get(_spot(path.as_posix())) or below.of_stem(file.stem, path.as_posix())
        if key is None:
            if _looks_like_boxes(file):
                conversion.note(NO_IMAGE)
            continue
        if key in texts:
            both = f"{texts[key].relative_to(folder)}, {path}"
            conversion.faults.append(f"two files of boxes for {key}: {both}")
        texts[key] = file
    return texts


def _spot(path: str) -> str:
    """Where an image or its text file lies, without what tells the two apart.

    >>> _spot("train/images/a.png") == _spot("train/labels/a.txt")
    True
    """
    plain = PurePosixPath(path)
    folders = [part for part in plain.parts[:-1] if part.lower() not in ("images", "labels")]
    return "/".join((*folders, plain.stem))


def _looks_like_boxes(file: Path) -> bool:
    """Whether the first line of a text is one of numbers."""
    try:
        text = decoded(read_bounded(file, EXPORT_BYTES))
    except (OSError, ValueError):
        return False
    first = next((line for line in text.splitlines() if line.strip()), "").split()
    return len(first) >= 5 and all(_number(word) is not None for word in first[1:5])


def _boxes(
    folder: Path, file: Path, reading: _Reading, size: tuple[int, int], conversion: Conversion
) -> list[ConvertedBox]:
    """What a text file says is in its image of `size` (width, height)."""
    name = file.relative_to(folder)
    try:
        text = decoded(read_bounded(file, EXPORT_BYTES))
    except (OSError, ValueError) as error:
        conversion.faults.append(f"{name} ({error})")
        return []
    boxes = []
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.replace(",", " ").replace("\t", " ").split()
        if not words:
            continue
        try:
            boxes.append(_box(words, reading, size, conversion))
        except ValueError as error:
            conversion.faults.append(f"{name}, line {number}: {error}")
    return boxes


def _box(
    words: list[str], reading: _Reading, size: tuple[int, int], conversion: Conversion
) -> ConvertedBox:
    """One line. Raises ValueError."""
    label, numbers = _label(words[0], reading.names), [_number(word) for word in words[1:]]
    values = [number for number in numbers if number is not None]
    if len(values) < len(numbers):
        odd = next(w for w, n in zip(words[1:], numbers, strict=True) if n is None)
        raise ValueError(f"{cut_off(odd)} is no number")
    score = None
    if reading.joints and len(values) == 4 + reading.joints:
        conversion.note("boxes have key points, which were left out")
        values = values[:4]
    elif len(values) == 5:  # as a model's own files have it
        score = values.pop()
        if not 0 <= score <= 1:
            raise ValueError(f"a sixth number is a confidence of 0 to 1, not {score:g}")
    if len(values) == 4:
        x, y, width, height = values
        low, high = (x - width / 2, y - height / 2), (x + width / 2, y + height / 2)
        if min(width, height) < 0:
            raise ValueError(f"a box of width {width:g} and height {height:g}")
    elif len(values) >= 6 and len(values) % 2 == 0:
        conversion.note("polygons became the boxes around them")
        low, high = (min(values[0::2]), min(values[1::2])), (max(values[0::2]), max(values[1::2]))
    else:
        raise ValueError(
            f"{len(words)} words; a line is a class, x, y, width and height, or a class and the "
            "corners of a polygon"
        )
    if max(map(abs, values)) > 1 + OVER_SHARE:
        raise ValueError(
            f"{max(values, key=abs):g} is no share of the image: numbers are to lie between 0 and "
            "1, not pixels"
        )
    wide, high_side = size
    bbox = [
        low[0] * wide,
        low[1] * high_side,
        (high[0] - low[0]) * wide,
        (high[1] - low[1]) * high_side,
    ]
    return ConvertedBox(label, bbox, score=score)


def _label(word: str, names: tuple[str, ...]) -> str:
    """The class of a line, by its number or its name. Raises ValueError."""
    number = _number(word)
    if number is None or number % 1:
        if word in names:
            return word
        raise ValueError(f"{cut_off(word)} is neither the number nor the name of a class")
    if not 0 <= number < len(names):
        raise ValueError(
            f"class {number:g}, but there are {len(names)}, from 0 ({listed(names)}); name them "
            "all: --classes a,b,c"
        )
    return names[int(number)]


def _number(word: str) -> float | None:
    try:
        value = float(word)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
