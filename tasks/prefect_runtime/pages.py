"""MLflow's and Prefect's pages over one home, on loopback."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

from sfda.errors import BadInput
from sfda.state_folder import home

READY = 120.0  # seconds a server may take to answer


def wait_for_signal() -> None:
    """Return at Ctrl-C, a hang-up or a polite kill, so that the servers end with this process."""
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: ended.set())
    ended.wait()


def free_port(preferred: int) -> int:
    """`preferred` if nobody listens there, else a free port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", preferred))
        except OSError:
            probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def servers(mlflow_port: int, prefect_port: int) -> Iterator[dict[str, str]]:
    """Both servers, answering, until the block ends. Raises BadInput if one does not start."""
    mlflow, prefect = free_port(mlflow_port), free_port(prefect_port)
    urls = {
        "mlflow_url": f"http://127.0.0.1:{mlflow}",
        "prefect_url": f"http://127.0.0.1:{prefect}",
    }
    python = [sys.executable, "-m"]
    store = os.environ["MLFLOW_TRACKING_URI"]
    commands = {}
    if store.startswith(("http://", "https://")):
        urls["mlflow_url"] = store
    else:
        commands["mlflow"] = [
            *python,
            *("mlflow", "server", "--host", "127.0.0.1", "--port", str(mlflow), "--workers", "1"),
            *("--backend-store-uri", store),
            *("--default-artifact-root", (home() / "mlartifacts").as_uri()),
        ]
    if api := os.environ.get("PREFECT_API_URL"):
        urls["prefect_url"] = api.removesuffix("/api")
    else:
        commands["prefect"] = [
            *python,
            *("prefect", "server", "start", "--host", "127.0.0.1", "--port", str(prefect)),
        ]
    env = {
        **os.environ,
        "PREFECT_UI_API_URL": f"http://127.0.0.1:{prefect}/api",
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "WARNING",  # its log is a file
    }
    logs = home() / "logs"
    logs.mkdir(exist_ok=True)
    running: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for name, command in commands.items():
            with (logs / f"{name}.log").open("wb") as log:
                running[name] = subprocess.Popen(
                    command, env=env, stdout=log, stderr=log, start_new_session=True
                )
        for name, process in running.items():
            probe = "/health" if name == "mlflow" else "/api/health"
            _wait(name, urls[f"{name}_url"] + probe, process, str(logs / f"{name}.log"))
        yield urls
    finally:
        for process in running.values():
            _stop(process)


def _wait(name: str, url: str, process: subprocess.Popen[bytes], log: str) -> None:
    end = time.monotonic() + READY
    while time.monotonic() < end and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=2) as reply:
                if reply.status == 200:
                    return
        except OSError:
            time.sleep(0.3)
    raise BadInput(f"the {name} server did not start; its last words are in {log}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the server and the workers it started."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
