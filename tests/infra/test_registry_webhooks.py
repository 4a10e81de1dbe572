"""An MLflow server calls a webhook on a promotion and on a verdict, as docs/deciding.md says."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import httpx
import pytest
import small
from mlflow import MlflowClient
from patience import eventually

from sfda.weights.bundle import write_bundle
from tasks import champion, tracking

pytestmark = pytest.mark.stack
LOCAL = {
    "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true",
    "MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "http,https",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
}
HEARD: list[dict[str, object]] = []


class Ear(BaseHTTPRequestHandler):
    """Keeps what it hears."""

    def do_POST(self) -> None:
        """Keep the body."""
        HEARD.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing to a terminal."""


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of an MLflow server over an empty store."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    command = [*(sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1"),
               *("--backend-store-uri", f"sqlite:///{tmp_path / 'm.db'}"),
               *("--artifacts-destination", str(tmp_path / "artifacts"))]  # fmt: skip
    process = subprocess.Popen(
        command,
        env={**os.environ, **LOCAL},
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )

    def is_up() -> bool:
        try:
            return httpx.get(f"{address}/health").status_code == 200
        except httpx.HTTPError:
            return False

    try:
        assert eventually(is_up)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        yield address
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture
def ear() -> Iterator[str]:
    HEARD.clear()
    receiver = HTTPServer(("127.0.0.1", 0), Ear)
    thread = threading.Thread(target=receiver.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{receiver.server_port}/hook"
    receiver.shutdown()
    thread.join()


def test_a_promotion_and_a_verdict_are_told(home: Path, server: str, ear: str, tmp_path: Path):
    events = ["model_version_alias.created", "model_version_tag.set"]
    client = MlflowClient(server, server)  # else the registry of whoever set one before
    client.create_webhook("champions", ear, events=events, secret="word")  # type: ignore[arg-type]
    digest = write_bundle(tmp_path / "toy", small.source(), small.SPEC)
    with tracking.run("job", key="first", tags={}, params={}) as run_id:
        version = tracking.register_bundle(
            run_id, tmp_path / "toy", "toy", depth=1, tags={"sha256": digest}
        )
    champion.make_champion(version)
    tracking.tag_version(version, {"verdict": "held: changes 3 of 9 answers"})
    expected = [
        {"name": "toy", "alias": "champion", "version": version.version},
        {"name": "toy", "version": "1", "key": "verdict", "value": "held: changes 3 of 9 answers"},
    ]
    assert eventually(lambda: all(data in [x["data"] for x in HEARD] for data in expected))
