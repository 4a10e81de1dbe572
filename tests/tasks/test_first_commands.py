"""Two first commands in a home that is new: one makes the databases, the other waits for it."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from fastapi import HTTPException

from tasks.prefect_runtime.served import ask_nobody_for_collections

PREFECT = "from tasks.prefect_runtime.served import make_database; make_database()"
SERVER = """
import sys
from tasks.prefect_runtime.served import main
sys.argv = ["served", "uvicorn", "--version"]
main()
"""
MLFLOW = "; from tasks.tracking.store import client; client()"


def test_both_databases_are_made_once(tmp_path: Path) -> None:
    env = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    env |= {"PREFECT_HOME": str(tmp_path), "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/m.db"}
    both = [
        subprocess.Popen(
            [sys.executable, "-P", "-c", PREFECT + MLFLOW], env=env, stderr=subprocess.PIPE
        )
        for _ in range(2)
    ]
    for process in both:
        errors = process.communicate()[1]
        assert process.returncode == 0, errors.decode()
    assert list(tmp_path.glob("database-*[0-9]"))
    for name in ("prefect.db", "m.db"):
        with closing(sqlite3.connect(tmp_path / name)) as made:
            assert made.execute("SELECT version_num FROM alembic_version").fetchone(), name


def test_a_database_that_a_person_names_is_left_to_them(tmp_path: Path) -> None:
    env = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    env |= {
        "PREFECT_HOME": str(tmp_path),
        "PREFECT_API_DATABASE_CONNECTION_URL": "sqlite+aiosqlite:////absent/x.db",
    }
    done = subprocess.run([sys.executable, "-P", "-c", PREFECT], env=env, check=False)
    assert done.returncode == 0
    assert not list(tmp_path.iterdir())


def test_prefect_s_migrations_import_nothing_of_the_current_folder(tmp_path: Path) -> None:
    for name in ("uvicorn", "asyncpg", "psycopg"):
        (tmp_path / f"{name}.py").write_text("open('ran', 'a').write(__name__)")
    env = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    env |= {"PREFECT_HOME": "prefect"}
    done = subprocess.run(
        [sys.executable, "-P", "-c", SERVER],
        env=env,
        cwd=tmp_path,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    assert b"uvicorn" in done.stdout
    assert not (tmp_path / "ran").exists()
    assert (tmp_path / "prefect" / "prefect.db").is_file()


def test_prefect_s_page_is_answered_from_files_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect.server.api import collections

    def asked(*_: object, **__: object) -> None:
        raise AssertionError("a request")

    monkeypatch.setattr(collections.httpx, "AsyncClient", asked)
    monkeypatch.setattr(collections, "get_collection_view", collections.get_collection_view)
    ask_nobody_for_collections()
    workers = asyncio.run(collections.read_view_content("aggregate-worker-metadata"))
    assert "process" in workers["prefect"]
    for view in ("aggregate-block-metadata", "demo-flows", "../../collections"):
        with pytest.raises(HTTPException) as caught:
            asyncio.run(collections.read_view_content(view))
        assert caught.value.status_code == 404
