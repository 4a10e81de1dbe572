"""Labels out of a CSV that names images and their classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

from sfda.authoring.listing import Listing
from sfda.documents import cut_off
from sfda.errors import BadInput, listed
from sfda.formats.table import Table, read_csv
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
        raise BadInput(_no_column(path, listing, header, problem))
    rows = Table({name: [cell.strip() for cell in own] for name, own in rows.columns.items()})
    labels = PROBLEMS[problem].labels_from_table(rows, header, str(path))
    there = set(listing.keys)
    named = _keys_named(rows.columns[listing.column], listing, there)
    absent = [key for key in named if key not in there]
    if absent:
        raise BadInput(f"{path} names images that are not in {listing.path}: {listed(absent)}")
    twice = [key for key, times in Counter(named).items() if times > 1]
    if twice:
        raise BadInput(f"{path} names images twice: {listed(twice)}")
    stated = {key: own for key, own in zip(named, labels, strict=True) if own is not None}
    column = next((name for name in header if name == "split"), None)
    splits = dict(zip(named, (row[column] for row in rows), strict=True)) if column else {}
    return Stated(stated, PROBLEMS[problem].classes_in_header(header), splits)


def _no_column(path: Path, listing: Listing, header: Sequence[str], problem: ProblemName) -> str:
    """What is wrong with a table that does not name its images."""
    needed = f"{listing.column},{PROBLEMS[problem].annotation_column}"
    line = cut_off(" | ".join(header)) or "nothing"
    if set(header) & set(listing.keys):
        return f"{path} has no line of column names: put {needed} above its first line, {line}"
    return (
        f"{path} has no column '{listing.column}', its first line says {line}; it needs {needed}, "
        "with a comma, a semicolon or a tab between cells"
    )


def _keys_named(cells: Sequence[str], listing: Listing, there: Collection[str]) -> list[str]:
    """The image that each cell names: below the listing's path, with that path before it, or by
    whichever slashes.
    """
    tops = [f"{listing.path.name}/", f"{listing.path.as_posix().rstrip('/')}/"]
    keys = []
    for cell in cells:
        name = cell.replace("\\", "/").removeprefix("./")
        shorter = [name.removeprefix(top) for top in tops if name.startswith(top)]
        keys.append(next((key for key in [name, *shorter] if key in there), name))
    return keys
