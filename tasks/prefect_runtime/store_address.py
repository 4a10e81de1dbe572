"""The MLflow store that a person names: it must answer, and no line shows its password."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from sfda.errors import BadInput

NAME = "MLFLOW_TRACKING_URI"
PORTS = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306, "mssql": 1433}
LOCAL_STORES = ("sqlite", "file", "")
ANSWER_TIME = 5.0  # seconds for a connection
HIDDEN = "***"


def check_store(address: str) -> None:
    """Raise BadInput where nobody answers at this address, or no store can be there.

    Of a kind of store that is not known here nothing is said: MLflow takes what plug-ins add.
    """
    shown = without_password(address)
    try:
        parts = urlsplit(address)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise BadInput(
            f"{NAME}={shown} is no address; write http://HOST:PORT or sqlite:///FILE"
        ) from None
    kind = parts.scheme.partition("+")[0]
    if kind in LOCAL_STORES:
        folder = Path(address.partition(":///")[2].partition("?")[0] or parts.path).parent
        if kind == "sqlite" and not folder.is_dir():
            raise BadInput(f"{NAME}={shown}: there is no folder {folder}; make it")
        return
    if kind not in PORTS:
        return
    if not host:
        raise BadInput(f"{NAME}={shown} names no host; write {kind}://HOST:PORT")
    try:
        socket.create_connection((host, port or PORTS[kind]), ANSWER_TIME).close()
    except OSError as error:
        raise BadInput(
            f"nobody answers at {NAME}={shown} ({error.strerror or error}); start that server, or "
            f"unset {NAME} to keep everything below SFDA_HOME"
        ) from None


def without_password(address: str) -> str:
    """An address as a line shows it.

    >>> without_password("postgresql://me:secret@db:5432/runs")
    'postgresql://me:***@db:5432/runs'
    """
    try:
        parts = urlsplit(address)
    except ValueError:
        start, _, rest = address.partition("://")
        return f"{start}://{HIDDEN}" if rest else HIDDEN
    user, at, host = parts.netloc.rpartition("@")
    name, colon, _ = user.partition(":")
    query = HIDDEN if "password" in parts.query.lower() else parts.query
    if not colon and query == parts.query:
        return address
    shown = f"{name}:{HIDDEN}{at}{host}" if colon else parts.netloc
    return urlunsplit(parts._replace(netloc=shown, query=query))


def store_fault(error: BaseException) -> str | None:
    """What a store that a person names said instead of an answer, on one line; None of others."""
    address = os.environ.get(NAME, "")
    if type(error).__module__.partition(".")[0] not in ("mlflow", "sqlalchemy", "requests"):
        return None
    text = " ".join(str(error).split())
    password = _password(address)
    if not address or (not password and urlsplit(address).scheme in LOCAL_STORES):
        return None
    for secret in filter(None, (address, password)):
        text = text.replace(secret, without_password(secret) if "://" in secret else HIDDEN)
    return f"{NAME}={without_password(address)} does not do its work: {text[:300]}"


def _password(address: str) -> str | None:
    try:
        return urlsplit(address).password
    except ValueError:
        return None
