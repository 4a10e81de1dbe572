"""Tables as CSV: read as people write them, and written the same on every machine."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from sfda.documents import TABLE_BYTES, stream_opened
from sfda.errors import BadInput

MOST_CELLS = 40_000_000  # of a table that is read: 10 million rows of four


def read_csv(path: Path) -> tuple[list[dict[str, str]], list[str]]:
    """Rows and column names of a CSV with a header. Raises BadInput if it is not one."""
    try:
        with path.open("rb") as file:
            stream = stream_opened(file, TABLE_BYTES)
            text = io.TextIOWrapper(stream, "utf-8-sig", newline="")  # Excel writes a mark first
            reader = csv.DictReader(text, restval="")
            header = list(reader.fieldnames or ())
            most = MOST_CELLS // max(1, len(header))
            rows = list(itertools.islice(reader, most + 1))
        if len(rows) > most:
            raise ValueError(f"more than {most} rows of {len(header)} columns are too many")
    except (OSError, ValueError, csv.Error) as error:
        raise BadInput(f"{path} cannot be read as CSV: {error}") from None
    if any(None in row for row in rows):
        raise BadInput(f"{path} has rows with more cells than its header")
    return rows, header


def csv_bytes(rows: Iterable[Sequence[Any]]) -> bytes:
    """A CSV file of these rows, the first of them its header.

    >>> csv_bytes([("file", "class"), ("a.png", "cat")])
    b'file,class\\na.png,cat\\n'
    """
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()
