"""MLflow's and Prefect's pages over one home, on loopback, behind the proxy."""

from __future__ import annotations

import base64
import json
import logging
import os
import secrets
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from sfda.errors import BadInput
from sfda.sandbox.leftovers import facts_of, live_processes
from sfda.state_folder import home, log_file, private_folder
from tasks.prefect_runtime.page_addresses import alone, listening, new_name
from tasks.prefect_runtime.secrets import SERVER, own_server, prefect_secret
from tasks.prefect_runtime.served import TIED
from tasks.prefect_runtime.server import server_command
from tasks.prefect_runtime.stated import packages

log = logging.getLogger("sfda")
READY = 120.0  # seconds a server may take to answer
TO_END = 10.0  # seconds to end politely
SOCKET_PATH = 107  # bytes, the most that a UNIX socket's path may have
HEALTH = {"mlflow": "/health", "prefect": "/api/health"}
PATHS = {"mlflow": r"/|/static-files/.*", "prefect": r"/(?!api/|api$).*"}
SCRIPTS = {"mlflow": "", "prefect": " 'unsafe-eval'"}  # pixi, which draws a run's graph, needs it


def wait_for_signal() -> None:
    """Return at Ctrl-C, a hang-up or a polite kill, so that the servers end with this process."""
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as `nohup` leaves a hang-up
            signal.signal(number, lambda *_: ended.set())
    ended.wait()


class _Page(NamedTuple):
    """A page behind the proxy: what the proxy is told of it, and its addresses."""

    record: dict[str, Any]
    address: str  # for programs
    origin: str  # for browsers
    link: str


@dataclass
class _Processes:
    """Servers that end with `ends`, and what the proxy before them is told."""

    ends: ExitStack
    logs: Path
    secret: str
    host: str = field(default_factory=new_name)
    pages: list[dict[str, Any]] = field(default_factory=list)
    sockets: list[socket.socket] = field(default_factory=list)
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def listen(self) -> tuple[socket.socket, str]:
        """A socket that listens before its server is there: nobody can take its port meanwhile."""
        made = self.ends.enter_context(listening(0))
        return made, f"http://127.0.0.1:{made.getsockname()[1]}"

    def start(
        self, name: str, command: list[str], env: dict[str, str], sockets: list[socket.socket]
    ) -> subprocess.Popen[bytes]:
        """Start a server whose words go to a log. It ends with this process: its input does."""
        with log_file(self.logs / f"{name}.log") as output:
            process = subprocess.Popen(
                command,
                env=os.environ | env | {"PYTHONSAFEPATH": "1"},  # no module of the current folder
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                pass_fds=[one.fileno() for one in sockets],
                start_new_session=True,
                umask=0o077,
            )
        self.ends.callback(_stop, process)
        self.running[name] = process
        return process

    def page(self, name: str, preferred: int) -> _Page:
        """A page behind the proxy.

        Another user may have taken its port: that it has another one is said.
        """
        listener, twin = alone(preferred)
        self.ends.enter_context(listener)
        if twin is not None:
            self.ends.enter_context(twin)
        port = listener.getsockname()[1]
        address = f"http://127.0.0.1:{port}"
        if preferred and port != preferred:
            taken = "port %d is taken, maybe by another user: %s's page is at %s"
            log.warning(taken, preferred, name, address)
        key, origin = secrets.token_urlsafe(32), f"http://{self.host}:{port}"
        record = {
            "descriptor": listener.fileno(),
            "name": self.host,
            "secret": self.secret,
            "key": key,
            "paths": PATHS[name],
            "scripts": SCRIPTS[name],
        }
        self.pages.append(record)
        self.sockets.append(listener)
        return _Page(record, address, origin, f"{origin}/open?key={key}")

    def proxy(self) -> None:
        """Start what stands before the pages. Its secrets go to it by a pipe."""
        command = [sys.executable, "-m", "tasks.prefect_runtime.proxy"]
        process = self.start("proxy", command, {}, self.sockets)
        assert process.stdin
        process.stdin.write(json.dumps(self.pages).encode() + b"\n")
        process.stdin.flush()  # it stays open: the proxy ends where it does


@contextmanager
def servers(mlflow_port: int, prefect_port: int) -> Iterator[dict[str, str]]:
    """Both servers, answering, until the block ends. Raises BadInput if one does not start.

    `mlflow_url` and `prefect_url` are links that open the pages, once; `mlflow_address` and
    `prefect_address` lead a browser that is let in to the same pages, and last from one start to
    the next; `prefect_api` is the address for programs, which need this home's secret. A server of
    the user's own is named as it is, by the links alone.
    """
    store, api = os.environ["MLFLOW_TRACKING_URI"], os.environ.get("PREFECT_API_URL")
    logs = home() / "logs"
    private_folder(logs)
    urls: dict[str, str] = {}
    pages: dict[str, _Page] = {}
    with ExitStack() as ends:
        all_of_them = _Processes(ends, logs, prefect_secret())
        if store.startswith(("http://", "https://")):
            urls["mlflow_url"] = store
        else:
            page = pages["mlflow"] = all_of_them.page("mlflow", mlflow_port)
            page.record["upstream"] = _start_mlflow(all_of_them, store, page.origin)
        if api:
            urls |= {"prefect_url": api.removesuffix("/api"), "prefect_api": api}
        else:
            page = pages["prefect"] = all_of_them.page("prefect", prefect_port)
            upstream = _start_prefect(all_of_them, page.origin)
            page.record.update(upstream=upstream, tells_secret=True)
            urls["prefect_api"] = f"{upstream}/api"
            for address in (upstream, page.address):
                ends.enter_context(own_server(address))
        if pages:
            all_of_them.proxy()
        for name, page in pages.items():
            urls[f"{name}_url"], urls[f"{name}_address"] = page.link, page.address
            _wait(name, page.address, all_of_them)
        yield urls


def _start_mlflow(processes: _Processes, store: str, origin: str) -> str:
    """MLflow's server on a UNIX socket that this user alone can reach; the socket's path."""
    temporary = tempfile.gettempdir()
    folder = processes.ends.enter_context(
        tempfile.TemporaryDirectory(
            prefix="sfda-", dir=temporary if len(temporary.encode()) < SOCKET_PATH - 40 else "/tmp"
        )
    )
    path = f"{folder}/mlflow"
    artifacts = (home() / "mlartifacts").as_uri()
    env = {
        "MLFLOW_BACKEND_STORE_URI": store,  # not an argument: it may hold a password
        "MLFLOW_DEFAULT_ARTIFACT_ROOT": artifacts,
        "MLFLOW_ARTIFACTS_DESTINATION": artifacts,
        "MLFLOW_UVICORN_OPTS": f"--uds {path} --app-dir {shlex.quote(str(packages()))}",
        "MLFLOW_SERVER_ALLOWED_HOSTS": "localhost",
        "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": origin,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_ENABLE_AI_GATEWAY": "false",
        "MLFLOW_ENABLE_REMOTE_ASSISTANT": "false",
    }
    command = [sys.executable, "-P", "-m", "tasks.prefect_runtime.served", TIED, "mlflow"]
    processes.start("mlflow", [*command, "server", "--workers", "1"], env, [])
    return path


def _start_prefect(processes: _Processes, origin: str) -> str:
    """Prefect's server, which demands the secret; its address."""
    listener, address = processes.listen()
    env = {
        SERVER: processes.secret,
        "PREFECT__SERVER_FINAL": "1",
        "PREFECT_UI_API_URL": f"{origin}/api",
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": origin,
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "WARNING",  # its log is a file
    }
    processes.start("prefect", server_command(listener, TIED), env, [listener])
    return address


def _wait(name: str, address: str, processes: _Processes) -> None:
    basic = base64.b64encode(processes.secret.encode()).decode()
    request = urllib.request.Request(
        address + HEALTH[name], headers={"Authorization": f"Basic {basic}"}
    )
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    needed = [processes.running[one] for one in (name, "proxy")]
    end = time.monotonic() + READY
    while time.monotonic() < end and all(process.poll() is None for process in needed):
        try:
            with direct.open(request, timeout=2) as reply:
                if reply.status == 200:
                    return
        except OSError:
            time.sleep(0.1)
    logs = processes.logs
    raise BadInput(f"the {name} server did not start; its last words are in {logs / name}.log")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the server and the workers it started, also where it has ended before them."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
        end = time.monotonic() + TO_END
        while _lives(process) and time.monotonic() < end:
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdin:
        with suppress(OSError):
            process.stdin.close()


def _lives(process: subprocess.Popen[bytes]) -> bool:
    """Whether a server or one of its workers, which are its group, is at work."""
    ended = process.poll() is not None
    if facts_of("self") is None:  # not Linux
        return not ended
    return any(facts.group == process.pid for _, facts in live_processes())
