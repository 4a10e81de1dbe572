"""A store that a person names: it must answer at once, and its password is in no line."""

from __future__ import annotations

import http.server
import logging
import socket
import sqlite3
import threading
from contextlib import closing, suppress
from pathlib import Path

import pytest

from sfda.errors import BadInput
from tasks.prefect_runtime import store_address
from tasks.prefect_runtime.store_address import (
    STORE,
    check_prefect_server,
    check_store,
    store_fault,
    without_password,
)


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.mark.parametrize("kind", ["http", "postgresql", "mysql+pymysql"])
def test_nobody_answers(closed_port: int, kind: str) -> None:
    with pytest.raises(BadInput, match="nobody answers at MLFLOW_TRACKING_URI") as error:
        check_store(f"{kind}://me:Secret-Pass@127.0.0.1:{closed_port}/runs")
    assert "://***@127.0.0.1" in str(error.value)
    assert "Secret-Pass" not in str(error.value)


def test_somebody_answers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        check_store(f"http://127.0.0.1:{server.getsockname()[1]}")


def test_what_can_be_no_store_is_refused(tmp_path: Path) -> None:
    for address in ("http://[bad", "http://", "http://host:99999", "http://me:Secret-Pass@[x"):
        with pytest.raises(BadInput, match=STORE) as error:
            check_store(address)
        assert "Secret-Pass" not in str(error.value)
    with pytest.raises(BadInput, match="there is no folder"):
        check_store(f"sqlite:///{tmp_path / 'absent' / 'runs.db'}")
    check_store(f"sqlite:///{tmp_path / 'runs.db'}")
    check_store("databricks")
    (tmp_path / "text").write_text("root:x:0:0")
    with pytest.raises(BadInput, match="text is no database of SQLite"):
        check_store(f"sqlite:///{tmp_path / 'text'}")
    assert [path.name for path in tmp_path.iterdir()] == ["text"]
    for folder in ("file:///etc", "/etc", "./mlruns"):
        with pytest.raises(BadInput, match="which MLflow takes no more; write sqlite:///FILE"):
            check_store(folder)


def test_addresses_without_a_password_stay(tmp_path: Path) -> None:
    for address in ("sqlite:////a/b.db", "http://host:5000", "databricks://profile", "file:///a"):
        assert without_password(address) == address


@pytest.mark.parametrize(
    "address",
    [
        "postgresql://me:Secret-Pass@db:5432/x", "postgresql://me:a/Secret-Pass@db:5432/x",
        "postgresql://me:a#Secret-Pass@db/x", "postgresql://me:a?Secret-Pass@db/x",
        "postgresql://me:a@Secret-Pass@db/x", "https://Secret-Pass@host",
        "http:\\\\me:Secret-Pass@h",
        "http://host/?token=Secret-Pass", "mssql://host/x?odbc_connect=PWD%3DSecret-Pass",
        "http://host/?pass%77ord=Secret-Pass", "postgresql:/me:Secret-Pass@h",
        "kind:me:Secret-Pass@h",
        "http://[me:Secret-Pass@x", "http://host:Secret-Pass", "http://host/x#Secret-Pass",
        "ht tp://me:Secret-Pass@h",
    ],
)  # fmt: skip
def test_no_way_to_write_a_password_shows_it(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    from mlflow.exceptions import MlflowException

    assert "Secret-Pass" not in without_password(address)
    with suppress(BadInput):
        check_store(address.replace("@db", "@127.0.0.1:1").replace("host", "127.0.0.1:1"))
    monkeypatch.setenv(STORE, address)
    line = store_fault(MlflowException(f"no answer of {address}"))
    assert line is not None
    assert "Secret-Pass" not in line


def test_what_a_store_says_is_one_line_without_its_password(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from mlflow.exceptions import MlflowException

    address = "http://me:Secret-Pass@127.0.0.1:5000"
    said = MlflowException(f"API request to {address}/api failed\nfor Secret-Pass")
    monkeypatch.setenv(STORE, address)
    line = store_fault(said)
    assert line is not None
    assert "Secret-Pass" not in line
    assert "\n" not in line
    assert store_fault(ValueError(address)) is None
    monkeypatch.setenv(STORE, "sqlite:////a/b.db")  # ours to mend: a traceback is of use
    assert store_fault(said) is None


def test_a_prefect_server_that_is_away_is_named_with_its_address(
    closed_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", f"http://me:Secret-Pass@127.0.0.1:{closed_port}/api")
    with pytest.raises(
        BadInput, match=r"nobody answers at PREFECT_API_URL=http://\*\*\*@"
    ) as error:
        check_prefect_server()
    assert "Secret-Pass" not in str(error.value)
    monkeypatch.setenv("PREFECT_API_URL", "127.0.0.1:4200")
    with pytest.raises(BadInput, match="is no address; write http://HOST:PORT/api"):
        check_prefect_server()
    monkeypatch.delenv("PREFECT_API_URL")
    check_prefect_server()


class _Answers(http.server.BaseHTTPRequestHandler):
    """Any server: of Prefect's interface it may know nothing, or all that is asked here."""

    def do_GET(self) -> None:
        """Say it, unless there is no such page."""
        code, words = self.server.words[self.path]  # type: ignore[attr-defined]
        self.send_response(code)
        if code == 302:
            self.send_header("Location", "/true")
        self.end_headers()
        self.wfile.write(words)

    def log_message(self, *words: object) -> None:
        """Nothing."""


@pytest.mark.parametrize("host", ["a..b", "a" * 300])
def test_a_host_that_cannot_be_one_is_named(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadInput, match="nobody answers"):
        check_store(f"http://{host}:5000")
    monkeypatch.setenv("PREFECT_API_URL", f"http://{host}:4200/api")
    with pytest.raises(BadInput, match="nobody answers"):
        check_prefect_server()
    with pytest.raises(BadInput, match="there is no folder"):
        check_store(f"sqlite:///{'a' * 300}/runs.db")


@pytest.mark.parametrize(
    ("code", "words", "answer"),
    [
        (200, b"true", None),
        (401, b"a password, please", None),
        (503, b"it starts", None),
        (404, b"no such page", "HTTP 404 to /health"),
        (501, b"", "HTTP 501 to /health"),
        (302, b"", "HTTP 302 to /health"),
        (200, b"<html>a page of something else", "not its words to /health"),
    ],
)
def test_what_answers_is_prefect_s_server_or_named(code, words, answer, monkeypatch):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Answers) as server:
        known = {"/api/health": (code, words), "/true": (200, b"true")}
        server.words = known  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        port = server.server_address[1]
        monkeypatch.setenv("PREFECT_API_URL", f"http://me:Secret-Pass@127.0.0.1:{port}/api")
        if answer is None:
            check_prefect_server()
        else:
            with pytest.raises(BadInput, match=f"no Prefect server .{answer}") as error:
                check_prefect_server()
            assert "Secret-Pass" not in str(error.value)
        server.shutdown()


def test_what_is_slow_is_waited_for_and_said(monkeypatch, caplog):
    monkeypatch.setattr(store_address, "ANSWER_TIME", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as server:  # it takes connections and says nothing
        monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{server.getsockname()[1]}/api")
        check_prefect_server()
    assert "is slow to answer; going on" in caplog.text


def test_what_speaks_no_http_is_named(monkeypatch):
    monkeypatch.setattr(store_address, "ANSWER_TIME", 60.0)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def speak() -> None:
            with suppress(OSError):  # the server is closed at the end
                while True:
                    one, _ = server.accept()
                    with suppress(OSError), one:  # who only looked whether it is there has gone
                        one.sendall(b"220 mail\r\n")
                        one.recv(1000)  # a question that nobody reads would break the connection

        threading.Thread(target=speak, daemon=True).start()
        monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{server.getsockname()[1]}/api")
        with pytest.raises(BadInput, match=r"no Prefect server \(no HTTP"):
            check_prefect_server()


def test_behind_a_proxy_it_is_the_proxy_that_must_answer(
    closed_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.getsockname()[1]}")
        monkeypatch.setenv("no_proxy", "")
        check_store("http://only-the-proxy-knows.invalid:5000")
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        with pytest.raises(BadInput, match="nobody answers") as error:
            check_store(f"http://127.0.0.1:{closed_port}")
        assert "proxy" not in str(error.value)
    with pytest.raises(BadInput, match=r"the proxy http://127\.0\.0\.1:\d+ is asked for it"):
        check_store("http://only-the-proxy-knows.invalid:5000")


@pytest.fixture
def locked(tmp_path: Path) -> Path:
    file = tmp_path / "runs.db"
    with closing(sqlite3.connect(file)) as store:
        store.execute("CREATE TABLE runs (id)")
        store.commit()
    return file


def test_a_locked_store_is_said_waited_for_and_refused(
    locked: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(store_address, "SILENT_TIME", 0.1)
    monkeypatch.setattr(store_address, "LOCKED_TIME", 0.5)
    address = f"sqlite:///{locked}"
    check_store(address)
    with closing(sqlite3.connect(locked, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with (
            caplog.at_level(logging.WARNING, "sfda"),
            pytest.raises(BadInput, match="is locked by another process; end that one"),
        ):
            check_store(address)
    assert f"{address} is locked by another process; trying until" in caplog.text
    check_store(address)


def test_a_store_that_is_free_again_in_time_is_used(
    locked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_address, "SILENT_TIME", 0.1)
    other = sqlite3.connect(locked, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN EXCLUSIVE")
    release = threading.Timer(0.5, other.close)
    release.start()
    check_store(f"sqlite:///{locked}")
    release.join()


def test_a_lock_that_comes_later_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    from sqlalchemy.exc import OperationalError

    monkeypatch.setenv(STORE, "sqlite:////data/runs.db")
    error = OperationalError("SELECT 1", {}, sqlite3.OperationalError("database is locked"))
    message = "is locked by another process; end that one, and start again"
    assert store_fault(error) == f"{STORE}=sqlite:////data/runs.db {message}"
