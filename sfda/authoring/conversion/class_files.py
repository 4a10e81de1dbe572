"""Lists of class names as people's tools keep them: lines, JSON, YOLO's `data.yaml`, COCO."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sfda.bounds.files import Unreadable, read_bounded
from sfda.bounds.limits import LIST_BYTES
from sfda.documents import decoded, parse_json, parse_yaml
from sfda.errors import BadInput, listed
from sfda.sandbox.crossing import all_inside

KEYS = ("names", "classes", "class_names", "labels", "categories")  # of a document
NUMBER_FIRST = re.compile(r"(\d+)\s*[\s,;:=|]\s*(\S.*)")
NUMBER_LAST = re.compile(r"(\S.*?)\s*[\s,;:=|]\s*(\d+)")


def read_class_file(path: Path) -> tuple[str, ...]:
    """The class names in a file, in order: one a line, with its number or without; a list in JSON
    or YAML, or numbers and names in either direction, under `names`, `classes` or `categories` or
    alone. Raises BadInput.
    """
    if not path.is_file():
        raise BadInput(f"no file {path}; it should hold one class name a line")
    try:
        text = decoded(read_bounded(path, LIST_BYTES), path)
    except (ValueError, OSError) as error:
        raise BadInput(f"{path} is no text with one class name a line: {error}") from None
    try:
        names = _in_document(text, path.suffix.lower()) or _in_lines(text)
    except ValueError as error:
        raise BadInput(
            f"{path} is no list of classes: {error}; write one class name a line"
        ) from None
    if not names:
        raise BadInput(f"{path} names no class; write one class name a line")
    return tuple(names)


def _in_document(text: str, suffix: str) -> list[str] | None:
    """The names in a JSON or YAML; None where the text is no such document. Raises ValueError."""
    if suffix == ".json" or text.lstrip()[:1] in ("[", "{"):
        document: Any = parse_json(text)
    elif suffix in (".yaml", ".yml"):
        document = parse_yaml(text)
    else:
        return None
    names = names_in_document(document)
    if names is None:
        raise ValueError(f"it has no list of names, and none under {', '.join(KEYS)}")
    return names


def names_in_document(document: object) -> list[str] | None:
    """The names that a document lists; None where it lists none. Raises ValueError for numbers
    that are not in a row.
    """
    if isinstance(document, Mapping):
        for key in KEYS:
            if isinstance(document.get(key), list | Mapping):
                return names_in_document(document[key])
        return _numbered([(number, name) for number, name in document.items()])
    if not isinstance(document, list) or not document:
        return None
    if all(isinstance(entry, Mapping) and "name" in entry for entry in document):
        if all("id" in entry for entry in document):
            return [name for _, name in _ordered([(e["id"], e["name"]) for e in document])]
        document = [entry["name"] for entry in document]
    if odd := [repr(name) for name in document if not isinstance(name, str | int)]:
        raise ValueError(f"these are no names: {listed(odd)}")
    return [str(name) for name in document]


def _ordered(pairs: list[tuple[Any, Any]]) -> list[tuple[Any, str]]:
    if odd := [repr(name) for _, name in pairs if not isinstance(name, str | int)]:
        raise ValueError(f"these are no names: {listed(odd)}")
    ordered = sorted(pairs, key=lambda pair: (isinstance(pair[0], str), pair[0]))
    return [(number, str(name)) for number, name in ordered]


def _numbered(pairs: list[tuple[Any, Any]]) -> list[str] | None:
    """Names by numbers, or numbers by names, in their order; None where neither is."""

    def number_of(value: object) -> int | None:
        return int(str(value)) if re.fullmatch(r"\d{1,9}", str(value)) else None

    for first, last in ((0, 1), (1, 0)):
        numbers = [number_of(pair[first]) for pair in pairs]
        if pairs and None not in numbers:
            ordered = sorted(
                (number, str(pair[last]).strip())
                for number, pair in zip(numbers, pairs, strict=True)
                if number is not None
            )
            there = [number for number, _ in ordered]
            if there != list(range(there[0], there[0] + len(there))) or there[0] > 1:
                raise ValueError(
                    f"its classes have the numbers {listed(list(map(str, there)))}, which are not "
                    "0, 1, 2 ... one by one"
                )
            return [name for _, name in ordered]
    return None


def _in_lines(text: str) -> list[str]:
    """One name a line; the numbers go where all lines have one and they count from 0 or 1."""
    lines = [line.strip().strip(",").strip() for line in text.splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    if len(lines) == 1 and "," in lines[0]:
        lines = [name.strip() for name in lines[0].split(",") if name.strip()]
    for pattern, number, name in ((NUMBER_FIRST, 1, 2), (NUMBER_LAST, 2, 1)):
        rows = [pattern.fullmatch(line) for line in lines]
        if rows and all(rows):
            pairs = [(int(row[number]), row[name].strip()) for row in rows if row]
            numbers = sorted(pair[0] for pair in pairs)
            if numbers in (list(range(len(pairs))), list(range(1, len(pairs) + 1))):
                return [_unquoted(name) for _, name in sorted(pairs)]
    return [_unquoted(line) for line in lines]


def _unquoted(name: str) -> str:
    return name[1:-1] if len(name) > 1 and name[0] == name[-1] and name[0] in "'\"" else name


def names_beside(folder: Path) -> tuple[Path, tuple[str, ...]] | None:
    """The file below a folder that names the classes of its boxes, as YOLO's tools write them, and
    those names; None without one. Raises BadInput where there are several that differ, or one is a
    link to a file of elsewhere.
    """
    listings: dict[Path, tuple[str, ...]] = {}
    for path in sorted(folder.rglob("*")):
        name = path.name.lower()
        if not path.is_file() or any(p.startswith(".") for p in path.relative_to(folder).parts):
            continue
        is_list = name in ("classes.txt", "predefined_classes.txt") or name.endswith(".names")
        if not is_list and path.suffix.lower() not in (".yaml", ".yml"):
            continue
        all_inside(folder, [path])
        names = read_class_file(path) if is_list else _of_data_yaml(path)
        if names:
            listings[path] = names
    if len(set(listings.values())) > 1:
        raise BadInput(
            f"{folder} holds several lists of classes that differ: "
            f"{listed([str(path.relative_to(folder)) for path in listings])}; name one with "
            "--classes-file"
        )
    return next(iter(listings.items()), None)


def _of_data_yaml(path: Path) -> tuple[str, ...]:
    """The names in YOLO's description of a data set; none in another file."""
    try:
        document = parse_yaml(decoded(read_bounded(path, LIST_BYTES), path))
        if not isinstance(document, Mapping) or "names" not in document:
            return ()
        return tuple(names_in_document(document["names"]) or ())
    except Unreadable:
        return ()
    except (ValueError, OSError) as error:
        raise BadInput(f"{path} is no list of classes: {error}") from None
