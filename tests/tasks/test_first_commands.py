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
SERVERS = """
import sys
from tasks.prefect_runtime.served import main
for module in ("uvicorn", "mlflow"):
    sys.argv = ["served", module, "--version"]
    try:
        main()
    except SystemExit as end:
        assert not end.code, end
"""


def test_both_databases_are_made_once_and_nothing_of_the_current_folder_is_imported(
    tmp_path: Path,
) -> None:
    """Prefect's migrations put "." before all else that is searched for modules."""
    for name in ("uvicorn", "asyncpg", "psycopg"):
        (tmp_path / f"{name}.py").write_text("open('ran', 'a').write(__name__)")
    env = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    store = tmp_path / "m.db"
    env |= {"PREFECT_HOME": "prefect", "MLFLOW_BACKEND_STORE_URI": f"sqlite:///{store}"}
    both = [
        subprocess.Popen(
            [sys.executable, "-P", "-c", SERVERS],
            env=env,
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for _ in range(2)
    ]
    for process in both:
        output, errors = process.communicate()
        assert process.returncode == 0, errors.decode()
        assert b"uvicorn" in output
    assert not (tmp_path / "ran").exists()
    folder = tmp_path / "prefect"
    assert list(folder.glob("database-*[0-9]"))
    assert (folder / "prefect.db").stat().st_mode & 0o777 == 0o600
    for file in (folder / "prefect.db", store):
        with closing(sqlite3.connect(file)) as made:
            assert made.execute("SELECT version_num FROM alembic_version").fetchone(), file


def test_a_database_that_a_person_names_is_left_to_them(tmp_path: Path) -> None:
    env = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    env |= {
        "PREFECT_HOME": str(tmp_path),
        "PREFECT_API_DATABASE_CONNECTION_URL": "sqlite+aiosqlite:////absent/x.db",
    }
    done = subprocess.run([sys.executable, "-P", "-c", PREFECT], env=env, check=False)
    assert done.returncode == 0
    assert not list(tmp_path.iterdir())


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
