"""Rows of a CSV as people write it, with every fault of the file named."""

from __future__ import annotations

import csv
from pathlib import Path

from sfda.errors import BadInput


def read_csv(path: Path) -> tuple[list[dict[str, str]], list[str]]:
    """Rows and column names of a CSV with a header. Raises BadInput if it is not one."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as handle:  # Excel writes a mark first
            reader = csv.DictReader(handle, restval="")
            rows = list(reader)
            header = list(reader.fieldnames or ())
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadInput(f"{path} cannot be read as CSV: {error}") from None
    if any(None in row for row in rows):
        raise BadInput(f"{path} has rows with more cells than its header")
    return rows, header
