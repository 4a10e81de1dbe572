"""Labels out of a CSV that names images and their classes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from sfda.authoring.listing import Listing
from sfda.errors import BadInput, listed
from sfda.formats.table import read_csv
from sfda.problems.registry import PROBLEMS
from sfda.refs import ProblemName


def labels_from_csv(
    listing: Listing, path: Path, problem: ProblemName
) -> tuple[dict[str, str], tuple[str, ...]]:
    """The labels that the table states, as a row file has them, by key; and the classes that its
    columns name. Raises BadInput.
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
    return stated, PROBLEMS[problem].classes_in_header(header)
