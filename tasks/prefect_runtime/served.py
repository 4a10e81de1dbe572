"""A server's process: `python -P -m tasks.prefect_runtime.served [--tied] MODULE WORDS...`.

It runs MODULE as `python -m` would, but Prefect's settings files of the current folder are not
read. With `--tied` it ends, with all that it has started, when standard input does: that is a pipe
from the command that started it, and ends however that command does.
"""

from __future__ import annotations

import asyncio
import json
import os
import runpy
import signal
import sys
import threading
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sfda.state_folder import one_at_a_time, private_file
from tasks.databases import bring_up_to_date
from tasks.prefect_runtime.bounded_log import bound_log
from tasks.prefect_runtime.folder_settings import ignore_folder_settings

TIED = "--tied"
PREFECT, MLFLOW = "uvicorn", "mlflow"  # the modules that serve them
DATABASES = (
    "PREFECT_SERVER_DATABASE_CONNECTION_URL",
    "PREFECT_API_DATABASE_CONNECTION_URL",
    "PREFECT_SERVER_DATABASE_DRIVER",
)


def end_with_input() -> None:
    """End this process and its group once standard input ends."""
    threading.Thread(target=_wait_for_the_end, daemon=True).start()


def _wait_for_the_end() -> None:
    while os.read(0, 4096):
        pass
    os.killpg(0, signal.SIGTERM)


def leave_folder() -> None:
    """Work in `/`: Prefect's migrations put "." before all else that is searched for modules, which
    would be the folder in which the command was called.
    """
    stated = [os.environ.get(name, "") for name in DATABASES]
    if any(":///" in one and not one.partition(":///")[2].startswith("/") for one in stated):
        return  # a file below the current folder, which a person names
    if folder := os.environ.get("PREFECT_HOME"):
        os.environ["PREFECT_HOME"] = os.path.abspath(os.path.expanduser(folder))
    os.chdir("/")


def ask_nobody_for_collections() -> None:
    """Let Prefect answer what its page asks of collections from its own files: it would ask GitHub
    first. Of a view that it has no file of, it says that there is none.
    """
    from prefect.server.api import collections

    views = Path(collections.__file__).parent / "collections_data" / "views"

    async def shipped(view: str) -> dict[str, Any]:
        if view not in collections.KNOWN_VIEWS or not (file := views / f"{view}.json").is_file():
            raise KeyError(view)
        content: dict[str, Any] = json.loads(file.read_text())
        return content

    collections.get_collection_view = shipped


def make_database() -> None:
    """Make Prefect's database below home, where it is not made yet by this version of Prefect.

    Of two first commands in a new home the second waits for the first: migrations of both at once
    would break on each other's tables. Whoever names a database has made it.
    """
    folder = os.environ.get("PREFECT_HOME")
    if not folder or any(os.environ.get(name) for name in DATABASES):
        return
    made = Path(folder) / f"database-{version('prefect')}"
    if made.exists():
        return
    with one_at_a_time(made):
        if made.exists():
            return
        database = Path(folder) / "prefect.db"
        private_file(database)
        bring_up_to_date(database, _migrate)
        private_file(made)


def _migrate(file: Path) -> None:
    from prefect.server.database.configurations import AioSqliteConfiguration
    from prefect.server.database.dependencies import (
        provide_database_interface,
        temporary_database_config,
    )

    searched = list(sys.path)
    stated = AioSqliteConfiguration(connection_url=f"sqlite+aiosqlite:///{file}")
    with temporary_database_config(stated):
        asyncio.run(provide_database_interface().create_db())
    sys.path[:] = searched


def make_store() -> None:
    """Make MLflow's store, or bring it up to date, where it is in SQLite."""
    from tasks.tracking.store import make_whole

    make_whole(os.environ.get("MLFLOW_BACKEND_STORE_URI", ""))


def main() -> None:
    """Become the server that the command line names."""
    words = sys.argv[1:]
    if words[0] == TIED:
        end_with_input()
        words = words[1:]
    ignore_folder_settings()
    bound_log()
    if words[0] == PREFECT:
        leave_folder()
        make_database()
        ask_nobody_for_collections()
    elif words[0] == MLFLOW:
        make_store()
    sys.argv = words
    runpy.run_module(words[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
