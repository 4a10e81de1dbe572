"""PostgreSQL's programs and data of a folder on this machine, for `stack.py`."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

HOST, USER = "127.0.0.1", "sfda"
DATABASES = ("prefect", "mlflow", "mlflow_auth")


class PostgresError(RuntimeError):
    """PostgreSQL cannot be had, and why."""


def server_user() -> str | None:
    """Whose process it must be: it refuses to run as root. None: whoever calls."""
    return "postgres" if os.geteuid() == 0 else None


def server_command(data: Path, port: int) -> list[str]:
    """How to start the server over a folder of data, which is made where it is missing. The
    password of `USER` is PGPASSWORD's. Raises PostgresError.
    """
    programs = _programs()
    if not (data / "PG_VERSION").is_file():
        _make_data(programs, data)
    words = [str(programs / "postgres"), "-D", str(data), "-p", str(port)]
    for option in (f"listen_addresses={HOST}", "unix_socket_directories=", "max_connections=200"):
        words += ["-c", option]
    return words


def make_databases(port: int, patience: float) -> None:
    """Every one of `DATABASES` that is missing, once the server answers, for which it has
    `patience` seconds. Raises PostgresError.
    """
    import psycopg2

    end = time.monotonic() + patience
    while True:
        try:
            link = psycopg2.connect(host=HOST, port=port, user=USER, dbname="postgres")
            break
        except psycopg2.OperationalError as error:
            if time.monotonic() > end or "password" in str(error):
                raise PostgresError(f"PostgreSQL: {error}") from None
            time.sleep(0.3)
    link.autocommit = True
    with link.cursor() as cursor:
        cursor.execute("SELECT datname FROM pg_database")
        known = {row[0] for row in cursor.fetchall()}
        for name in DATABASES:
            if name not in known:
                cursor.execute(f"CREATE DATABASE {name}")
    link.close()


def _make_data(programs: Path, data: Path) -> None:
    user = server_user()
    data.mkdir(exist_ok=True)
    with tempfile.NamedTemporaryFile("w", suffix=".pw") as password:
        password.write(os.environ["PGPASSWORD"])
        password.flush()
        if user:
            for path in (data, password.name):
                subprocess.run(["chown", user, str(path)], check=True)
        words = [str(programs / "initdb"), "-D", str(data), "-U", USER, "-E", "UTF8"]
        words += ["--locale=C", "--auth=scram-sha-256", f"--pwfile={password.name}"]
        made = subprocess.run(words, capture_output=True, text=True, user=user, cwd="/")
    if made.returncode:
        raise PostgresError(f"initdb: {made.stderr.strip()[-500:]}")


def _programs() -> Path:
    """The folder of PostgreSQL's programs, the newest version's. Raises PostgresError."""
    result = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=_major)
    if not result and (config := shutil.which("pg_config")):
        asked = subprocess.run([config, "--bindir"], capture_output=True, text=True)
        result = [Path(asked.stdout.strip(), "initdb")] if asked.returncode == 0 else []
    if not result or not result[-1].is_file():
        raise PostgresError("no PostgreSQL on this machine; install the package `postgresql`")
    return result[-1].parent


def _major(path: Path) -> float:
    try:
        return float(path.parts[-3])
    except ValueError:
        return 0.0
