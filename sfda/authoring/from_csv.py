"""Labels out of a CSV that names images and their classes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import NamedTuple

from sfda.authoring.listing import Listing
from sfda.errors import BadInput, listed
from sfda.formats.table import read_csv
from sfda.problems.registry import PROBLEMS
from sfda.refs import ProblemName


class Stated(NamedTuple):
    """What a table says of images, by key, and the classes that its columns name."""

    labels: dict[str, str]
    classes: tuple[str, ...]
    splits: dict[str, str]


def labels_from_csv(listing: Listing, path: Path, problem: ProblemName) -> Stated:
    """The labels that the table states, as a row file has them, and its column `split` where there
    is one. Raises BadInput.
    """
    rows, header = read_csv(path)
    if listing.column not in header:
        column = PROBLEMS[problem].annotation_column
        raise BadInput(
            f"{path} has no column '{listing.column}'; it needs {listing.column},{column}"
        )
    labels = PROBLEMS[problem].labels_from_table(rows, header, str(path))
    named = [row[listing.column].replace("\\", "/").removeprefix("./") for row in rows]
    there = set(listing.keys)
    absent = [key for key in named if key not in there]
    if absent:
        raise BadInput(f"{path} names images that are not in {listing.path}: {listed(absent)}")
    twice = [key for key, times in Counter(named).items() if times > 1]
    if twice:
        raise BadInput(f"{path} names images twice: {listed(twice)}")
    stated = {key: own for key, own in zip(named, labels, strict=True) if own is not None}
    column = next((name for name in header if name.strip().lower() == "split"), None)
    splits = dict(zip(named, (row[column] for row in rows), strict=True)) if column else {}
    return Stated(stated, PROBLEMS[problem].classes_in_header(header), splits)
