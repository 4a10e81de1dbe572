"""Servers and stores that a person names: they must answer, and no line shows a password."""

from __future__ import annotations

import http.client
import logging
import os
import re
import socket
import sqlite3
import threading
import time
import urllib.error
import urllib.request
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

from sfda.errors import BadInput
from tasks.prefect_runtime.stated import URL

log = logging.getLogger("sfda")
STORE = "MLFLOW_TRACKING_URI"
PORTS = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306, "mssql": 1433}
LOCAL_STORES = ("sqlite", "file", "")
ANSWER_TIME = 5.0  # seconds for a connection
LONGEST_READ = 60.0  # seconds of a read that nobody waits for any more
SILENT_TIME, LOCKED_TIME = 4.0, 60.0  # seconds of waiting for a lock, before it is said and after
SQLITE = b"SQLite format 3\0"  # how its files begin
LOCKED = "database is locked"  # SQLite's words
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
    allowed = os.environ.get("MLFLOW_ALLOW_FILE_STORE", "").lower() in ("true", "1")
    if (kind == "file" or (not kind and os.sep in address)) and not allowed:
        raise BadInput(
            f"{STORE}={shown} is a folder, which MLflow takes no more; write sqlite:///FILE"
        )
    if kind in LOCAL_STORES:
        file = Path(address.partition(":///")[2].partition("?")[0] or parts.path)
        if kind == "sqlite" and not os.path.isdir(file.parent):
            raise BadInput(f"{STORE}={shown}: there is no folder {file.parent}; make it")
        if kind == "sqlite" and file.is_file():
            _refuse_other_file(file, f"{STORE}={shown}")
            wait_for_lock(file, f"{STORE}={shown}")
        return
    if kind not in PORTS:
        return
    if not host:
        raise BadInput(f"{STORE}={shown} names no host; write {kind}://HOST:PORT")
    remedy = f"start that server, or unset {STORE} to keep everything below SFDA_HOME"
    check_answers(kind, host, port or PORTS[kind], f"{STORE}={shown}", remedy)


def check_prefect_server() -> None:
    """Raise BadInput where nobody answers at the address of the user's Prefect server, or what
    answers is none.
    """
    address = os.environ.get(URL, "")
    try:
        parts = urlsplit(address)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    shown = f"{URL}={without_password(address)}"
    if not address:
        return
    if not host or parts.scheme not in ("http", "https"):
        raise BadInput(f"{shown} is no address; write http://HOST:PORT/api")
    remedy = f"start that server, or unset {URL}: then every command has one of its own"
    check_answers(parts.scheme, host, port or PORTS[parts.scheme], shown, remedy)
    if not host.endswith(".prefect.cloud") and (answer := _no_prefect_s(address)):
        raise BadInput(
            f"what answers at {shown} is no Prefect server ({answer}); its address ends in /api; "
            + remedy
        )


def _no_prefect_s(address: str) -> str | None:
    """What a server said that Prefect's never says; None if it is Prefect's, or cannot be told: it
    is slow, wants a password, or its certificate is known to Prefect alone.
    """
    answers: list[str | None] = []
    asked = f"{without_user(address).rstrip('/')}/health"
    # a thread, since a server may send a byte now and then for ever
    asking = threading.Thread(target=lambda: answers.append(_fault_of(asked)), daemon=True)
    asking.start()
    asking.join(ANSWER_TIME)
    if answers:
        return answers[0]
    log.warning("%s=%s is slow to answer; going on", URL, without_password(address))
    return None


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """What leads elsewhere is no answer of Prefect's."""

    def redirect_request(self, *request: object, **more: object) -> None:
        """None."""


def _fault_of(asked: str) -> str | None:
    try:
        with urllib.request.build_opener(_NoRedirect).open(asked, timeout=LONGEST_READ) as answer:
            return None if answer.read(100).strip() == b"true" else "not its words to /health"
    except urllib.error.HTTPError as error:
        asks_for_more = error.code in (401, 403, 407, 429) or error.code >= 502
        return None if asks_for_more else f"HTTP {error.code} to /health"
    except http.client.HTTPException:
        return "no HTTP"
    except (OSError, ValueError):
        return None


def without_user(address: str) -> str:
    """An address without name and password.

    >>> without_user("http://me:secret@server:4200/api")
    'http://server:4200/api'
    """
    parts = urlsplit(address)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def check_answers(kind: str, host: str, port: int, shown: str, remedy: str) -> None:
    """Raise BadInput where nobody answers within 5 s: there, or at the proxy that leads there."""
    proxy = "" if urllib.request.proxy_bypass(f"{host}:{port}") else proxies().get(kind, "")
    if proxy:
        through = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
        host, port = through.hostname or host, through.port or PORTS["http"]
        remedy += f"; the proxy {without_password(proxy)} is asked for it, unless NO_PROXY names it"
    try:
        socket.create_connection((host, port), ANSWER_TIME).close()
    except (OSError, UnicodeError) as error:  # a host's name that cannot be one
        reason = getattr(error, "strerror", None) or error
        raise BadInput(f"nobody answers at {shown} ({reason}); {remedy}") from None


def proxies() -> dict[str, str]:
    """Those of the environment, by kind of address."""
    stated = urllib.request.getproxies_environment()
    both = {kind: stated.get(kind) or stated.get("all", "") for kind in ("http", "https")}
    return {kind: address for kind, address in both.items() if address}


def _refuse_other_file(file: Path, shown: str) -> None:
    try:
        with file.open("rb") as opened:
            start = opened.read(len(SQLITE))
    except OSError as error:
        raise BadInput(f"{shown}: {file} cannot be read ({error.strerror})") from None
    if start and start != SQLITE:
        raise BadInput(f"{shown}: {file} is no database of SQLite; name a new file")


def wait_for_lock(file: Path, shown: str) -> None:
    """Wait while another process locks a SQLite store, at most a minute, and say so after 4 s.

    Raises BadInput where it is locked at the end.
    """
    if not _is_locked(file, SILENT_TIME):
        return
    end = time.monotonic() + LOCKED_TIME
    until = datetime.now().astimezone() + timedelta(seconds=LOCKED_TIME)
    log.warning("%s is locked by another process; trying until %s", shown, f"{until:%H:%M:%S}")
    while time.monotonic() < end:
        if not _is_locked(file, 1.0):
            return
    raise BadInput(f"{shown} is locked by another process; end that one, and start again")


def _is_locked(file: Path, patience: float) -> bool:
    """Whether nothing can be written for so many seconds; other faults are told later."""
    try:
        with closing(sqlite3.connect(file, timeout=patience, isolation_level=None)) as store:
            store.execute("BEGIN IMMEDIATE")
            store.execute("ROLLBACK")
    except sqlite3.Error as error:
        return getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_BUSY
    return False


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
    if address.startswith("sqlite") and LOCKED in str(error):
        return f"{STORE}={shown} is locked by another process; end that one, and start again"
    secret = HIDDEN in shown
    if not address or (not secret and address.partition(":")[0] in LOCAL_STORES):
        return None
    code = getattr(error, "error_code", "")
    words = f"{type(error).__name__} {code}".strip()
    if not secret:
        words = " ".join(str(error).split())[:300]
    return f"{STORE}={shown} does not do its work: {words}"
