"""Tables as CSV: read as people write them, and written the same on every machine."""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import compress
from pathlib import Path
from typing import Any, overload

from sfda.bounds.files import open_regular, read_bounded, stream_opened
from sfda.bounds.limits import ROW_CHARACTERS, TABLE_BYTES, TABLE_CELLS, TABLE_COLUMNS
from sfda.documents import cut_off, encoding_of, older_encoding, say_encoding
from sfda.errors import BadInput, listed

SEPARATORS = (",", ";", "\t", "|", " ")
KNOWN_COLUMNS = frozenset(
    (
        *("file", "index", "row", "image", "class", "classes", "label", "labels", "mask", "split"),
        *("group", "spacing", "priors", "joint", "x", "y", "width", "height", "answer", "opinion"),
    )
)  # names of columns that are ours
PREFIXES = frozenset(("label", "prior"))  # of columns that go on with a class
EXCELS_LINE = re.compile(r"sep=(.)\r?\n?", re.IGNORECASE)


class Table(Sequence[dict[str, str]]):
    """Rows of a table, by the names of its columns: kept column by column, since a dictionary a row
    takes several times what its cells do.
    """

    def __init__(self, columns: dict[str, list[str]]) -> None:
        self.columns = columns  # all of one length

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))

    @overload
    def __getitem__(self, at: int) -> dict[str, str]: ...
    @overload
    def __getitem__(self, at: slice) -> Table: ...
    def __getitem__(self, at: int | slice) -> dict[str, str] | Table:
        if isinstance(at, slice):
            return Table({name: cells[at] for name, cells in self.columns.items()})
        return {name: cells[at] for name, cells in self.columns.items()}

    def __iter__(self) -> Iterator[dict[str, str]]:
        names = tuple(self.columns)
        for cells in zip(*self.columns.values(), strict=True):
            yield dict(zip(names, cells, strict=True))

    def where(self, column: str, value: str) -> Table:
        """The rows whose cell in a column is this."""
        chosen = [cell == value for cell in self.columns[column]]
        return Table({n: list(compress(cells, chosen)) for n, cells in self.columns.items()})


def read_csv(path: Path) -> tuple[Table, list[str]]:
    """Rows and column names of a table with a header, as people's programs write them: cells
    between commas, semicolons, tabs or bars; UTF-8, UTF-16 or an older encoding; column names of
    ours in any case, and with spaces around. An older encoding is said in the log. Raises BadInput
    if it is not one.
    """
    try:
        return _read(path, None)
    except UnicodeDecodeError as error:
        fault: Exception = error
    except (OSError, ValueError, csv.Error) as error:
        raise BadInput(f"{path} cannot be read as CSV: {error}") from None
    try:
        encoding = older_encoding(read_bounded(path, TABLE_BYTES))
        if encoding:
            read = _read(path, encoding)
            say_encoding(path, encoding)
            return read
    except (OSError, ValueError, csv.Error) as error:
        fault = error
    raise BadInput(f"{path} cannot be read as CSV: {fault}") from None


def _read(path: Path, encoding: str | None) -> tuple[Table, list[str]]:
    with open_regular(path) as file:
        stream = stream_opened(file, TABLE_BYTES)
        text = io.TextIOWrapper(stream, encoding or encoding_of(stream.peek(64)), newline="")
        rows = _rows(text)
        raw = next(rows, [])
        header = [_column(name) for name in raw]
        _check_header(header)
        if any(name != name.strip() for name in raw):  # "file, class": so are the rows
            rows = ([cell.strip() for cell in cells] for cells in rows)
        return _table(rows, header), header


def _column(name: str) -> str:
    """The name of a column: ours are read in any case, whatever spaces are around them.

    >>> _column(" File"), _column("LABEL:Dog "), _column("My notes")
    ('file', 'label:Dog', 'My notes')
    """
    name = name.strip()
    prefix, colon, rest = name.partition(":")
    if colon and prefix.strip().lower() in PREFIXES:
        return f"{prefix.strip().lower()}:{rest.strip()}"
    return name.lower() if name.lower() in KNOWN_COLUMNS else name


def separator_of(header: str) -> str:
    """What stands between the cells of a table: of the usual ones that which gives most columns of
    names that we know.

    >>> separator_of("file;class"), separator_of("a;b,c")
    (';', ',')
    """

    def known(separator: str) -> int:
        cells = next(csv.reader([header], delimiter=separator, skipinitialspace=True), [])
        names = [_column(cell) for cell in cells]
        return sum(name in KNOWN_COLUMNS or name.partition(":")[0] in PREFIXES for name in names)

    return max(SEPARATORS, key=known)


def _rows(text: io.TextIOBase) -> Iterator[list[str]]:
    """The cells of every row that has some. Raises ValueError for a row of very many characters,
    before it is split, and csv.Error.
    """
    size, most = 0, ROW_CHARACTERS.most

    def lines() -> Iterator[str]:
        nonlocal size
        while line := text.readline(most + 1):
            size += len(line)
            if size > most:
                raise ValueError(f"it has a row of {ROW_CHARACTERS.beyond}")
            yield line

    source = lines()
    first = next((line for line in source if line.strip()), "")
    separator = None
    if stated := EXCELS_LINE.fullmatch(first):  # Excel's own way to name the separator
        separator, first = stated[1], next(source, "")
    separator = separator or separator_of(first)
    spaced = separator == " " or 0 < first.count(separator) == first.count(f"{separator} ")
    lines_left = itertools.chain([first], source)
    for cells in csv.reader(lines_left, delimiter=separator, skipinitialspace=spaced):
        size = 0
        if cells:
            yield cells


def _check_header(header: list[str]) -> None:
    """Raise ValueError for too many columns, or several of one name; without one they may be."""
    if len(header) > TABLE_COLUMNS.most:
        raise ValueError(f"it has {TABLE_COLUMNS.refusal(len(header))}")
    counts = Counter(filter(None, header))
    if twice := [cut_off(name) for name, count in counts.items() if count > 1]:
        raise ValueError(f"it has several columns of one name: {listed(twice)}")


def _table(lines: Iterable[list[str]], header: list[str]) -> Table:
    """Cells that a line lacks are empty. Raises ValueError for too many cells, in all or a line."""
    most = TABLE_CELLS.most // max(1, len(header))
    columns: list[list[str]] = [[] for _ in header]
    for count, cells in enumerate(lines, start=1):
        if count > most:
            raise ValueError(f"rows of {len(header)} columns are {TABLE_CELLS.beyond}")
        if len(cells) > len(header):
            if any(cells[len(header) :]):
                raise ValueError(
                    "it has rows with more cells than its header; put a cell that holds the "
                    'separator in quotes: "a, b"'
                )
            cells = cells[: len(header)]  # a separator at the end of the line
        cells += [""] * (len(header) - len(cells))
        for column, cell in zip(columns, cells, strict=True):
            column.append(cell)
    return Table(dict(zip(header, columns, strict=True)))


def csv_bytes(rows: Iterable[Sequence[Any]]) -> bytes:
    """A CSV file of these rows, the first of them its header.

    >>> csv_bytes([("file", "class"), ("a.png", "cat")])
    b'file,class\\na.png,cat\\n'
    """
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()
