"""Masks in a heap of files: where they lie, which images have one, and what values they hold."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from sfda.authoring.from_masks import MaskOptions
from sfda.authoring.listing import Listing
from sfda.authoring.pairing import ENDINGS, FOLDERS, pair_masks
from sfda.authoring.unprepared.clues import Clue, problem_that, stated_problem
from sfda.errors import BadInput
from sfda.formats.masks import one_value
from sfda.formats.readers import FileReader, NpzReader

MASKS_SEEN = 30  # of all, evenly spread, whose values are looked at


def by_masks(listing: Listing) -> Clue | None:
    """Masks beside or below the images, or volumes."""
    problem = problem_that(lambda one: one.labels_are_files)
    options: dict[str, Any] = {"problem": problem}
    if listing.image:
        if listing.mask is None or listing.mask.startswith(("y", "label", "target")):
            return None
        values = _values(NpzReader(listing.path, listing.mask, np.arange(len(listing.keys))))
        return _with_masks(problem, listing.mask, len(listing.keys), len(listing.keys), values)
    best: tuple[int, str, tuple[str, ...]] | None = None
    for spot in _mask_folders(listing):
        try:
            images, masks = pair_masks(listing, spot)
        except BadInput:
            continue
        if masks and (best is None or len(masks) > best[0]):
            best = len(masks), spot, tuple(masks.values())
            count = len(images.keys)
    if best:
        paired, spot, files = best
        values = _values(listing.reader(files))
        if not values and (fault := _no_mask(listing.reader(files))):
            why = "masks are there, which cannot be used as they are"
            said_of = (f"{paired} masks at '{spot}', such as {fault}",)
            return Clue(problem, why, stated_problem(problem), options, said_of, weight=4)
        return _with_masks(problem, spot, paired, count, values)
    if any(".nii" in key.lower() for key in listing.keys):
        why = "volumes are read slice by slice"
        return Clue(problem, why, stated_problem(problem), options, weight=1)
    return None


def _with_masks(problem: str, spot: str, paired: int, count: int, values: tuple[int, ...]) -> Clue:
    usual = (
        [value for value in values if value != 255] if 255 in values and len(values) > 2 else values
    )
    names = ("background", *(f"class{number}" for number in range(1, max(2, len(usual)))))
    words = (*stated_problem(problem), "--masks", spot, "--classes", ",".join(names))
    own = tuple(usual)
    plain = own == tuple(range(len(own))) or not own or len(own) < 2
    words += () if plain else ("--values", ",".join(map(str, own)))
    options = MaskOptions.from_text(
        spot, None if plain else ",".join(map(str, own)), None, None, None
    )
    return Clue(
        problem,
        f"{paired} of {count} images have a mask",
        words,
        {"problem": problem, "classes": names, "masks": options},
        (f"{paired} masks at '{spot}', of the values {', '.join(map(str, values)) or 'none'}",),
        ("call the classes by their own names in --classes, in the order of their values",),
        weight=4,
    )


def _mask_folders(listing: Listing) -> Iterator[str]:
    """Where masks may be: below each folder that is called so, or beside the images."""
    folders = {parent.as_posix() for key in listing.keys for parent in PurePosixPath(key).parents}
    yield from sorted(f for f in folders if PurePosixPath(f).name.lower() in FOLDERS)
    stems = [PurePosixPath(key.partition("#")[0].removesuffix(".gz")).stem for key in listing.keys]
    if any(stem.endswith(ENDINGS) for stem in stems):
        yield "."


def _values(masks: FileReader | NpzReader) -> tuple[int, ...]:
    """The values of some masks, at most 20 of them."""
    count = len(masks.names) if isinstance(masks, FileReader) else len(masks.indices)
    values = set[int]()
    for row in np.unique(np.linspace(0, count - 1, min(count, MASKS_SEEN), dtype=int)):
        try:
            stored = one_value(masks.values(int(row)))
            if stored.ndim == 2:
                values |= {int(value) for value in np.unique(stored)}
        except (BadInput, ValueError, OverflowError):
            continue
    return tuple(sorted(values)[:20])


def _no_mask(masks: FileReader | NpzReader) -> str:
    """What is wrong with the first mask; '' where that is nothing."""
    try:
        if one_value(masks.values(0)).ndim == 2:
            return ""
    except (BadInput, ValueError, OverflowError) as error:
        return str(error)
    return (
        f"{masks.name_of(0)}, are colour images; masks hold one class index a pixel: save them as "
        "grey or palette PNGs of indices"
    )
