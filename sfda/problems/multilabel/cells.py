"""How tables say which classes a row has: a list of names in one cell, or a column of 0 and 1 each.

`dog;cat` is two classes, an empty cell none of them, `?` that nobody looked.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from sfda.errors import BadInput, listed

SEPARATOR = ";"
NOT_LOOKED_AT = "?"  # there are no labels of this row
COLUMN = "label:"  # prefix of a column with 0 or 1 for one class


def names_in(cell: str) -> tuple[str, ...]:
    """The names in a cell, each once.

    >>> names_in("dog; cat;dog"), names_in("")
    (('dog', 'cat'), ())
    """
    return tuple(dict.fromkeys(filter(None, map(str.strip, cell.split(SEPARATOR)))))


def cell_of(names: Iterable[str]) -> str:
    """The cell that says so."""
    return SEPARATOR.join(names)


def name_fault(name: str) -> str:
    """Why a class cannot be called so where an image has several; '' if it can."""
    if names_in(name) != (name,) or name == NOT_LOOKED_AT:
        return (
            f"class {name!r} cannot stand in a list of names such as 'dog;cat': call it otherwise"
        )
    return ""


def columns_in(header: Sequence[str]) -> dict[str, str]:
    """The columns of 0 and 1 by their class."""
    return {n.removeprefix(COLUMN): n for n in header if n.startswith(COLUMN)}


def cells_of(
    rows: Sequence[Mapping[str, str]], header: Sequence[str], what: str
) -> list[str | None]:
    """What each row of a table says, as a cell of names; None where nobody looked.

    Raises BadInput where the table has no such columns, or where they hold something else.
    """
    columns = columns_in(header)
    if "classes" in header and columns:
        raise BadInput(f"{what} has both a column classes and columns {COLUMN}<class>: keep one")
    if "classes" in header:
        cells = [row["classes"].strip() for row in rows]
        return [None if cell == NOT_LOOKED_AT else cell_of(names_in(cell)) for cell in cells]
    if not columns:
        raise BadInput(
            f"{what} has no column 'classes' (names such as dog;cat) and no columns "
            f"{COLUMN}<class> (0 or 1)"
        )
    odd = [
        f"line {line}, {column} ({row[column] or 'none'})"
        for line, row in enumerate(rows, start=2)
        for column in columns.values()
        if row[column] not in ("0", "1") and not _blank(row, columns)
    ]
    if odd:
        raise BadInput(f"{what}: columns {COLUMN}<class> hold 0 or 1: {listed(odd)}")
    return [
        None
        if _blank(row, columns)
        else cell_of(name for name, column in columns.items() if row[column] == "1")
        for row in rows
    ]


def _blank(row: Mapping[str, str], columns: Mapping[str, str]) -> bool:
    return all(row[column] in ("", NOT_LOOKED_AT) for column in columns.values())


def cells_of_array(
    labels: np.ndarray[Any, Any], names: tuple[str, ...] | int, what: str
) -> list[str]:
    """What each row of an array [N, C] of 0 and 1 says, as a cell of names. Raises BadInput."""
    if isinstance(names, int):
        raise BadInput(f"{what} needs the names of its {names} columns: --classes a,b,c")
    flags = flags_of_array(labels, len(names), what)
    return [cell_of(name for name, yes in zip(names, row, strict=True) if yes) for row in flags]


def flags_of_array(labels: np.ndarray[Any, Any], classes: int, what: str) -> np.ndarray[Any, Any]:
    """An array of labels as int8 [N, C] of 0 and 1. Raises BadInput for anything else."""
    kind = labels.dtype.kind
    if labels.ndim != 2 or labels.shape[1] != classes or kind not in "biu":
        raise BadInput(
            f"{what} is {labels.dtype} {list(labels.shape)}, not 0 or 1 for each of {classes} "
            "classes [N, C]"
        )
    if labels.size and (labels.min() < 0 or labels.max() > 1):
        raise BadInput(f"{what} holds {labels.min()} to {labels.max()}, not 0 and 1")
    return labels.astype(np.int8)
