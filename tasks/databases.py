"""SQLite databases that are made, or brought up to date, as a whole or not at all."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

JOURNALS = ("", "-journal", "-wal", "-shm")  # of SQLite, after the name of its file
BOOKKEEPING = ("alembic_version", "workspaces")  # what migrations alone write rows into


def bring_up_to_date(file: Path, migrate: Callable[[Path], None]) -> None:
    """Migrate a copy beside the database, made empty where there is none; the copy's content then
    takes its place in one transaction.

    Migrations do not go on where a kill ended them: after a kill the database is as it was, and
    the next start begins anew. So does one with tables and no rows, which a killed migration left.
    The caller sees to it that no other process does the same. Raises what `migrate` raises.
    """
    while True:
        with closing(sqlite3.connect(file)) as database, _beside(file) as copy:
            before = _changes(database)
            if _has_rows(database):
                with closing(sqlite3.connect(copy)) as other:
                    database.backup(other)
            migrate(copy)
            if _changes(database) == before:  # else somebody wrote into it meanwhile
                with closing(sqlite3.connect(copy)) as other:
                    other.backup(database)
                return


@contextmanager
def _beside(file: Path) -> Iterator[Path]:
    """The name of a file in the same folder; what is left of an earlier one is removed."""
    copy = file.with_name(f".{file.name}.new")
    _remove(copy)
    try:
        yield copy
    finally:
        _remove(copy)


def _remove(file: Path) -> None:
    for journal in JOURNALS:
        file.with_name(file.name + journal).unlink(missing_ok=True)


def _changes(database: sqlite3.Connection) -> int:
    """A number that another one's writing changes."""
    return int(database.execute("PRAGMA data_version").fetchone()[0])


def _has_rows(database: sqlite3.Connection) -> bool:
    names = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    return any(
        database.execute(f'SELECT 1 FROM "{name}" LIMIT 1').fetchone()
        for (name,) in names
        if name not in BOOKKEEPING and not name.startswith("sqlite_")
    )
