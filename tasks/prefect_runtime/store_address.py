"""The MLflow store that a person names: it must answer, and no line shows its password."""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path
from urllib.parse import urlsplit

from sfda.errors import BadInput

STORE = "MLFLOW_TRACKING_URI"
PORTS = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306, "mssql": 1433}
LOCAL_STORES = ("sqlite", "file", "")
ANSWER_TIME = 5.0  # seconds for a connection
HIDDEN = "***"
PLAIN = re.compile(r"[\w.\-/]*|(sqlite|file):///[\w./ \-+~]*")  # a word or a path
HOST = re.compile(r"[\w.\-]*(\[[0-9a-fA-F:.]+\])?(:\d{1,5})?(/[\w./\-]*)?")  # and a path


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
            f"{STORE}={shown} is no address; write http://HOST:PORT or sqlite:///FILE"
        ) from None
    kind = parts.scheme.partition("+")[0]
    if kind in LOCAL_STORES:
        folder = Path(address.partition(":///")[2].partition("?")[0] or parts.path).parent
        if kind == "sqlite" and not folder.is_dir():
            raise BadInput(f"{STORE}={shown}: there is no folder {folder}; make it")
        return
    if kind not in PORTS:
        return
    if not host:
        raise BadInput(f"{STORE}={shown} names no host; write {kind}://HOST:PORT")
    try:
        socket.create_connection((host, port or PORTS[kind]), ANSWER_TIME).close()
    except OSError as error:
        raise BadInput(
            f"nobody answers at {STORE}={shown} ({error.strerror or error}); start that server, or "
            f"unset {STORE} to keep everything below SFDA_HOME"
        ) from None


def without_password(address: str) -> str:
    """An address as a line shows it: neither who asks, nor how, only whom.

    >>> without_password("postgresql://me:se/cret@db:5432/runs?sslmode=require")
    'postgresql://***@db:5432/runs?***'
    """
    if PLAIN.fullmatch(address):
        return address
    start, separator, rest = address.partition("://")
    if not separator or not start.replace("+", "").isalnum():
        return HIDDEN
    user, at, host = rest.rpartition("@")
    host, query, _ = host.replace("#", "?").partition("?")
    if not HOST.fullmatch(host):
        return f"{start}://{HIDDEN}"
    return f"{start}://{HIDDEN if user else ''}{at}{host}{query}{HIDDEN if query else ''}"


def store_fault(error: BaseException) -> str | None:
    """What a store that a person names said instead of an answer, on one line; None of others.

    Of a store with a password nothing that it said is shown but the kind of the fault.
    """
    address = os.environ.get(STORE, "")
    if type(error).__module__.partition(".")[0] not in ("mlflow", "sqlalchemy", "requests"):
        return None
    shown = without_password(address)
    secret = HIDDEN in shown
    if not address or (not secret and address.partition(":")[0] in LOCAL_STORES):
        return None
    code = getattr(error, "error_code", "")
    words = f"{type(error).__name__} {code}".strip()
    if not secret:
        words = " ".join(str(error).split())[:300]
    return f"{STORE}={shown} does not do its work: {words}"
