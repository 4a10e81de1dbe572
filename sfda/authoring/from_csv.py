"""Labels out of a CSV that names images and their classes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from sfda.authoring.listing import Listing
from sfda.errors import BadInput, listed
from sfda.formats.table import read_csv


def labels_from_csv(listing: Listing, path: Path) -> dict[str, str]:
    rows, header = read_csv(path)
    missing = [name for name in (listing.column, "class") if name not in header]
    if missing:
        raise BadInput(f"{path} has no column '{missing[0]}'; it needs {listing.column},class")
    named = [row[listing.column].replace("\\", "/").removeprefix("./") for row in rows]
    there = set(listing.keys)
    absent = [key for key in named if key not in there]
    if absent:
        raise BadInput(f"{path} names images that are not in {listing.path}: {listed(absent)}")
    twice = [key for key, times in Counter(named).items() if times > 1]
    if twice:
        raise BadInput(f"{path} names images twice: {listed(twice)}")
    return {key: row["class"] for key, row in zip(named, rows, strict=True) if row["class"]}
