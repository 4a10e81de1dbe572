"""A kill at any step of a migration leaves a database as it was, and the next start migrates."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from killed import kills

from tasks.databases import bring_up_to_date

NEW = (
    "CREATE TABLE one (x)",
    "CREATE TABLE alembic_version (x)",
    "INSERT INTO alembic_version VALUES (2)",
)
OLD = ("CREATE TABLE first (x)", "INSERT INTO first VALUES (7)")
HALF = ("CREATE TABLE alembic_version (x)", "INSERT INTO alembic_version VALUES (1)")
MADE = {"alembic_version": [(2,)], "one": []}


def write(file: Path, *statements: str) -> None:
    """As migrations do: each statement is lasting at once, and none can be repeated."""
    for statement in statements:
        (file.parent / "statement").touch()  # a step before which a kill can come
        with closing(sqlite3.connect(file, isolation_level=None)) as database:
            database.execute(statement)


def content(file: Path) -> dict[str, list[object]]:
    with closing(sqlite3.connect(file)) as database:
        tables = database.execute("SELECT name FROM sqlite_master ORDER BY name").fetchall()
        return {name: database.execute(f"SELECT * FROM {name}").fetchall() for (name,) in tables}


def migrate(file: Path) -> None:
    if "one" not in content(file):  # a kill came at the very end
        write(file, *NEW)


@pytest.mark.parametrize(
    ("statements", "before", "after"),
    [
        ((), {}, MADE),
        (HALF, {"alembic_version": [(1,)]}, MADE),
        (OLD, {"first": [(7,)]}, {**MADE, "first": [(7,)]}),
    ],
    ids=["new", "half-made", "behind"],
)
def test_a_killed_migration_is_begun_anew(
    tmp_path: Path, statements: tuple[str, ...], before: object, after: object
) -> None:
    file = tmp_path / "store.db"
    write(file, *statements)
    stages = [content(file) for _ in kills(lambda: bring_up_to_date(file, migrate))]
    assert len(stages) > 8
    assert all(stage in (before, after) for stage in stages)
    assert content(file) == after
    assert {path.name for path in tmp_path.iterdir()} <= {"store.db", "statement"}


def test_what_another_writes_meanwhile_is_not_lost(tmp_path: Path) -> None:
    file = tmp_path / "store.db"
    write(file, *OLD)
    others = ["INSERT INTO first VALUES (8)"]

    def interrupted(copy: Path) -> None:
        migrate(copy)
        while others:
            write(file, others.pop())

    bring_up_to_date(file, interrupted)
    assert content(file) == {**MADE, "first": [(7,), (8,)]}
