"""The COCO JSON that boxes of another format become, and the images that they are of."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from sfda.errors import BadInput
from sfda.formats.image_files import SUFFIXES, images_below
from sfda.manifests.write import write_files


class ConvertedBox(NamedTuple):
    """One object: its class, and x, y, width and height in pixels."""

    label: str
    bbox: list[float]
    crowd: int = 0
    score: float | None = None


class ConvertedImage(NamedTuple):
    """An image, below the folder, its size where that is stated, and its objects."""

    file: str
    size: tuple[int, int] | None  # width and height
    boxes: list[ConvertedBox]


@dataclass
class Conversion:
    """What a conversion came upon: faults stop it, notes are said, by how often each was met."""

    faults: list[str] = field(default_factory=list)
    notes: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    def note(self, what: str) -> None:
        """Count what is no fault but should be known."""
        self.notes[what] += 1

    def lines(self) -> list[str]:
        """The notes, each with its count."""
        return [f"{count} {what}" for what, count in self.notes.items()]


class ImagesBelow:
    """The images below a folder, by their whole paths and by the names of their files."""

    def __init__(self, folder: Path) -> None:
        self.keys = sorted(images_below(folder, SUFFIXES))
        self.by_stem: dict[str, list[str]] = defaultdict(list)
        for key in self.keys:
            self.by_stem[PurePosixPath(key).stem].append(key)
        self._all = set(self.keys)

    def one_of(self, names: Collection[str]) -> str | None:
        """The first of these paths that is an image's."""
        return next((name for name in names if name in self._all), None)

    def of_stem(self, stem: str, near: str = "") -> str | None:
        """The image whose file is called so, suffix aside; of several that which shares most of
        its folders with the path `near`, if it is one.
        """
        own = self.by_stem.get(stem, [])
        if len(own) < 2:
            return own[0] if own else None
        folders = set(PurePosixPath(near).parts)
        shared = [len(folders & set(PurePosixPath(key).parts[:-1])) for key in own]
        best = max(shared)
        return own[shared.index(best)] if shared.count(best) == 1 else None


def write_coco(
    images: Sequence[ConvertedImage], names: tuple[str, ...], out: Path, conversion: Conversion
) -> dict[str, Any]:
    """Write the document; counts of what it holds, and notes. Raises BadInput where nobody knows a
    class.
    """
    if not names:
        raise BadInput(
            f"none of {len(images)} files holds an object, so nobody knows the classes; name them: "
            "--classes a,b,c"
        )
    index_of = {name: number for number, name in enumerate(names, start=1)}
    entries: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, image in enumerate(images, start=1):
        entry: dict[str, Any] = {"id": number, "file_name": image.file}
        if image.size:
            entry |= {"width": image.size[0], "height": image.size[1]}
        entries.append(entry)
        for box in image.boxes:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": index_of[box.label],
                    "bbox": box.bbox,
                    "area": box.bbox[2] * box.bbox[3],
                    "iscrowd": box.crowd,
                    **({} if box.score is None else {"score": box.score}),
                }
            )
    categories = [{"id": i, "name": name} for name, i in index_of.items()]
    document = {"images": entries, "annotations": annotations, "categories": categories}
    write_files({out: json.dumps(document).encode()}, out)
    counts: dict[str, Any] = {"images": len(entries), "boxes": len(annotations)}
    notes = {"notes": conversion.lines()} if conversion.notes else {}
    return {**counts, "classes": list(names), **notes}
