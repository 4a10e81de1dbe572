"""What lies in a folder, a zip or an npz that nobody prepared, and the command that makes a
manifest of it. The manifest is made for a try, and thrown away.
"""

from __future__ import annotations

import logging
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from sfda.authoring.from_folder import build_manifest
from sfda.authoring.groups import frames_of, way_to_group
from sfda.authoring.listing import Listing, list_images, passed_over
from sfda.authoring.splits import listing_splits
from sfda.authoring.unprepared.clues import (
    Clue,
    by_array,
    by_boxes_beside,
    by_documents,
    by_folders,
    by_table,
    without_clues,
)
from sfda.authoring.unprepared.mask_clues import by_masks
from sfda.authoring.unprepared.unused import unused
from sfda.config import Config
from sfda.errors import BadInput, listed, shell_command
from sfda.formats.images import open_picture
from sfda.formats.readers import BROKEN, npz_header
from sfda.formats.volumes import slice_of
from sfda.manifests.opening import open_manifest

LOOKS: tuple[Callable[[Listing], Clue | None], ...] = (
    by_documents,
    by_boxes_beside,
    by_masks,
    by_table,
    by_folders,
    by_array,
    without_clues,
)
LOOKED_AT = 200  # images of all, evenly spread, that are decoded


class Explanation(Config):
    """What is there, what would become of it, and what to type."""

    path: str
    sees: tuple[str, ...]
    does: tuple[str, ...]
    commands: tuple[str, ...]
    splits: dict[str, int] = {}  # of the manifest that was made for a try
    fault: str | None = None  # why none could be made

    def text(self) -> str:
        """In words."""
        parts = [(f"{self.path} holds", self.sees), ("sfda would", self.does)]
        lines = [f"{title}\n" + "\n".join(f"  {line}" for line in own) for title, own in parts]
        return "\n".join([*lines, "type", *(f"  {command}" for command in self.commands)])


def explain(path: Path) -> Explanation:
    """What to make of `path`. Raises BadInput where it is missing or holds no images."""
    if path.suffix.lower() in (".yaml", ".yml"):
        raise BadInput(
            f"{path} is a file of YAML: `{shell_command('sfda', 'check', path)}` verifies a "
            "manifest; --explain is for a folder, a zip or an npz of images"
        )
    with _listening():
        return _explained(path, list_images(path, volumes=True))


def _explained(path: Path, listing: Listing) -> Explanation:
    clue = _best(listing)
    out = f"{path.resolve().stem or 'site'}.yaml"
    splits, fault, said_of = _tried(path, clue)
    make = shell_command("sfda", "manifest", path, *clue.words, "--out", out)
    return Explanation(
        path=str(path),
        sees=(*_pictures(listing), *_layout(listing), *clue.sees, *_others(path, listing)),
        does=(*_plans(clue, splits, fault), *said_of),
        commands=(*clue.before, make, shell_command("sfda", "check", out)),
        splits=splits,
        fault=fault,
    )


def _best(listing: Listing) -> Clue:
    """The strongest clue in a listing, with what all of them have seen."""
    clues = [clue for look in LOOKS if (clue := look(listing)) is not None]
    best = max(clues, key=lambda clue: clue.weight)
    sees = tuple(line for clue in clues for line in clue.sees)
    others = tuple(f"not use: {clue.sees[0]}" for clue in clues if clue is not best and clue.sees)
    return Clue(
        best.problem, best.why, best.words, best.options, sees, best.notes + others, best.before
    )


class _Heard(logging.Handler):
    """What is logged meanwhile, in place of the log."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Note a line."""
        self.lines.append(record.getMessage())


@contextmanager
def _listening() -> Iterator[list[str]]:
    """The lines that are logged in this block; nobody else gets them."""
    log, heard = logging.getLogger("sfda"), _Heard()
    before, log.handlers, passes, log.propagate = log.handlers, [heard], log.propagate, False
    try:
        yield heard.lines
    finally:
        log.handlers, log.propagate = before, passes


def _tried(path: Path, clue: Clue) -> tuple[dict[str, int], str | None, tuple[str, ...]]:
    """The splits of the manifest that the command makes, or why it would fail; and what is said
    while it is made.
    """
    if clue.before:
        return {}, None, ()
    with tempfile.TemporaryDirectory(prefix="sfda-") as folder, _listening() as lines:
        try:
            made = build_manifest(path, out=Path(folder, "m.yaml"), **clue.options)
            splits = open_manifest(made, data_root=Path(folder)).splits
        except BadInput as error:
            return {}, str(error), ()
        heard = [line for line in lines if not line.startswith(("splits are", f"{path}: passed"))]
        counts = {name: split.count for name, split in splits.items()}
        return counts, None, tuple(f"say: {line}" for line in heard)


def _plans(clue: Clue, splits: Mapping[str, int], fault: str | None) -> tuple[str, ...]:
    lines = [f"take this for {clue.problem}: {clue.why}"]
    if splits:
        counts = ", ".join(f"{name} {count}" for name, count in splits.items())
        lines.append(f"make these splits: {counts}")
    if fault:
        lines.append(f"refuse it as it is: {fault}")
    return (*lines, *clue.notes)


def _pictures(listing: Listing) -> tuple[str, ...]:
    """How many images of which kinds, sizes and modes."""
    if listing.image:
        shape, dtype = npz_header(listing.path, listing.image)
        arrays = [name for name in (listing.mask, listing.group) if name]
        more = f"; beside it {', '.join(arrays)}" if arrays else ""
        return (
            f"{len(listing.keys)} images in array '{listing.image}', {dtype} {list(shape)}{more}",
        )
    volumes = Counter(part.file for key in listing.keys if (part := slice_of(key)))
    pictures = [key for key in listing.keys if slice_of(key) is None]
    lines = []
    if pictures:
        kinds = Counter(Path(key).suffix for key in pictures)
        named = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
        lines.append(f"{len(pictures)} images ({named}): {_headers(listing, pictures)}")
    if volumes:
        slices = sum(volumes.values())
        lines.append(f"{len(volumes)} volumes, of {slices} slices: {listed(tuple(volumes))}")
    if pictures and volumes:
        lines.append("pictures and volumes together; if the pictures are previews, move them away")
    return tuple(lines)


def _headers(listing: Listing, keys: list[str]) -> str:
    rows = np.unique(np.linspace(0, len(keys) - 1, min(len(keys), LOOKED_AT), dtype=int))
    files = listing.reader(()).files
    sizes, modes, broken = Counter[str](), Counter[str](), list[str]()
    for key in (keys[row] for row in rows):
        try:
            image = open_picture(files.read(key))
            image.load()
        except (*BROKEN, KeyError) as error:
            broken.append(f"{key} ({error})")
            continue
        sizes[f"{image.width} x {image.height}"] += 1
        modes[image.mode] += 1
    looked = "" if len(rows) == len(keys) else f", of {len(rows)} that were looked at"
    text = f"{_most(sizes, 'sizes')}; {_most(modes, 'modes')}{looked}"
    return text + (f"; {len(broken)} cannot be read: {listed(broken)}" if broken else "")


def _most(counts: Counter[str], what: str) -> str:
    named = ", ".join(f"{name} ({count})" for name, count in counts.most_common(4))
    return named if len(counts) <= 4 else f"{len(counts)} {what}, most often {named}"


def _layout(listing: Listing) -> tuple[str, ...]:
    """Split folders, or an array that says the same."""
    try:
        splits = Counter(listing_splits(listing, listing.keys))
    except BadInput as error:
        return (str(error),)
    if not splits:
        return ()
    counts = ", ".join(f"{name} {count}" for name, count in sorted(splits.items()))
    return (f"splits, by {'an array' if listing.image else 'folders'}: {counts}",)


def _others(path: Path, listing: Listing) -> tuple[str, ...]:
    """What is not used of it, and pictures that may be frames."""
    lines = list(unused(listing))
    if first := frames_of(listing.keys):
        lines.append(
            f"{len(first)} runs of consecutive names, from {listed(first[:3])} on; if they are "
            f"frames of videos, keep each together: {way_to_group(first[0])}"
        )
    text = passed_over(path).text()
    return (*lines, text) if text else tuple(lines)
