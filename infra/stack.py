"""PostgreSQL, an S3 store, Prefect, MLflow and workers as processes of this machine, until Ctrl-C.

The same parts as in compose.yaml, for machines without Docker. `make stack` calls it. Secrets come
from the environment alone; `python infra/stack.py --new-secrets` prints a set of them. A part that
dies is started again.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import secrets
import shlex
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bucket import BUCKET, make_bucket
from postgres import PostgresError, make_databases, server_command, server_user

from sfda.state_folder import PERSONS_UMASK, log_file, private_folder
from tasks.prefect_runtime.deployed import DEPLOYED
from tasks.prefect_runtime.home import DEFAULTS
from tasks.prefect_runtime.page_addresses import free_port
from tasks.prefect_runtime.stated import packages

SECRETS = {
    "PGPASSWORD": "PostgreSQL, user sfda",
    "AWS_ACCESS_KEY_ID": "the S3 store",
    "AWS_SECRET_ACCESS_KEY": "the S3 store",
    "PREFECT_API_AUTH_STRING": "Prefect, as user:password",
    "MLFLOW_TRACKING_USERNAME": "MLflow's administrator",
    "MLFLOW_TRACKING_PASSWORD": "MLflow's administrator, at least 12 characters",
    "MLFLOW_FLASK_SERVER_SECRET_KEY": "MLflow's sessions",
}
HERE = Path(__file__).parent
READY = 120.0  # seconds a part may take to answer
PATIENCE = 15.0  # seconds to end politely


class StackError(RuntimeError):
    """A part that cannot be started, and why."""


def new_secrets() -> str:
    """A set of secrets as lines for a shell."""
    made = {name: secrets.token_urlsafe(18) for name in SECRETS}
    made["PREFECT_API_AUTH_STRING"] = f"admin:{made['PREFECT_API_AUTH_STRING']}"
    made["MLFLOW_TRACKING_USERNAME"] = "admin"
    made["AWS_ACCESS_KEY_ID"] = "sfda" + secrets.token_hex(8)
    return "\n".join(f"{name}={value}" for name, value in made.items())


@dataclass
class Part:
    """One process of the stack, started again where it dies."""

    name: str
    command: list[str]
    env: Mapping[str, str]
    user: str | None = None
    stop: signal.Signals = signal.SIGTERM
    process: subprocess.Popen[bytes] | None = None

    def start(self, logs: Path) -> None:
        with log_file(logs / f"{self.name}.log", go_on=True) as log:
            self.process = subprocess.Popen(
                self.command, env=dict(self.env), stdout=log, stderr=log, user=self.user,
                start_new_session=True, umask=0o077, cwd=HERE.parent if self.user is None else "/",
            )  # fmt: skip

    def end(self) -> None:
        if self.process is None or self.process.poll() is not None:
            return
        self.process.send_signal(self.stop)
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)


@dataclass
class Stack:
    """All parts over one folder."""

    folder: Path
    workers: int
    slots: int
    jobs: Path | None = None
    parts: list[Part] = field(default_factory=list)
    ports: dict[str, int] = field(default_factory=dict)
    stopping: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        if missing := [n for n in SECRETS if not os.environ.get(n)]:
            raise StackError(
                f"secrets are not set: {', '.join(missing)}; `python infra/stack.py --new-secrets "
                "> infra/secrets.env` makes them, `set -a; . infra/secrets.env; set +a` sets them"
            )
        self.folder = self.folder.absolute()
        self.logs = self.folder / "logs"
        self.logs.mkdir(parents=True, exist_ok=True)
        # root's PostgreSQL is a user of its own, and must pass through
        self.folder.chmod(0o711 if os.geteuid() == 0 else 0o700)
        self.logs.chmod(0o700)
        expected = {"postgres": 5433, "s3": 9000, "prefect": 4200, "mlflow": 5000}
        self.ports = {name: free_port(port) for name, port in expected.items()}

    @property
    def client(self) -> dict[str, str]:
        """What a client needs beside the secrets: addresses, and the state that workers share."""
        home = self.folder / "home"
        return {
            "PREFECT_API_URL": f"http://127.0.0.1:{self.ports['prefect']}/api",
            "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{self.ports['mlflow']}",
            "SFDA_HOME": str(home),
            "PREFECT_HOME": str(home / "prefect"),
        }

    @property
    def env(self) -> dict[str, str]:
        return {
            **DEFAULTS,
            **os.environ,
            **self.client,
            PERSONS_UMASK: os.environ.get(PERSONS_UMASK) or f"{_umask():03o}",
            DEPLOYED: "",
            "PYTHONSAFEPATH": "1",  # no module of the current folder
            "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",
            "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
        }

    def up(self) -> None:
        """Start all parts in order, each after those it needs answer."""
        self._postgres()
        self._store()
        self._prefect()
        self._mlflow()
        private_folder(self.folder / "home")
        words = ["--slots", str(self.slots)] + (["--jobs", str(self.jobs)] if self.jobs else [])
        deployed = subprocess.run(
            [sys.executable, str(HERE / "deploy.py"), *words],
            env={**self.env, "PYTHONPATH": str(HERE.parent)}, capture_output=True, text=True,
        )  # fmt: skip
        if deployed.returncode:
            raise StackError(deployed.stderr.strip()[-1500:])
        for number in range(self.workers):
            self._worker(f"worker-{number}", "gpu", {"CUDA_VISIBLE_DEVICES": str(number)})
        self._worker("worker-cpu", "cpu", {"CUDA_VISIBLE_DEVICES": ""})

    def watch(self) -> None:
        """Start again what dies, until told to stop."""
        while not self.stopping.wait(1.0):
            for part in self.parts:
                if part.process is None or part.process.poll() is not None:
                    part.start(self.logs)

    def down(self) -> None:
        """End all parts, the last one first."""
        self.stopping.set()
        for part in reversed(self.parts):
            part.end()

    def _add(self, part: Part) -> None:
        self.parts.append(part)
        part.start(self.logs)

    def _postgres(self) -> None:
        port = self.ports["postgres"]
        command = server_command(self.folder / "postgres", port)
        # SIGINT is its fast way to end: it does not wait for clients
        self._add(Part("postgres", command, os.environ, server_user(), signal.SIGINT))
        make_databases(port, READY)

    def _store(self) -> None:
        port = self.ports["s3"]
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        self._add(Part("s3", command, self.env))
        address = f"http://127.0.0.1:{port}"
        self._wait("s3", f"{address}/moto-api/")
        os.environ["MLFLOW_S3_ENDPOINT_URL"] = address
        make_bucket()

    def _prefect(self) -> None:
        port = self.ports["prefect"]
        database = f"postgresql+asyncpg://sfda@127.0.0.1:{self.ports['postgres']}/prefect"
        env = {
            **self.env,
            "PREFECT_API_DATABASE_CONNECTION_URL": database,
            "PREFECT_SERVER_API_AUTH_STRING": os.environ["PREFECT_API_AUTH_STRING"],
            "PREFECT_UI_API_URL": f"http://127.0.0.1:{port}/api",
            "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": f"http://127.0.0.1:{port}",
        }
        command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1"]
        self._add(Part("prefect", [*command, "--port", str(port)], env))
        self._wait("prefect", f"http://127.0.0.1:{port}/api/health", "PREFECT_API_AUTH_STRING")

    def _mlflow(self) -> None:
        port, base = self.ports["mlflow"], f"postgresql://sfda@127.0.0.1:{self.ports['postgres']}"
        config = self.folder / "mlflow-auth.ini"
        config.write_text(
            (HERE / "mlflow-auth.ini").read_text().replace("postgresql://sfda@postgres:5432", base)
        )
        env = {
            **self.env,
            "MLFLOW_BACKEND_STORE_URI": f"{base}/mlflow",
            "MLFLOW_ARTIFACTS_DESTINATION": f"s3://{BUCKET}",
            "AWS_DEFAULT_REGION": "us-east-1",
            "MLFLOW_SERVER_ALLOWED_HOSTS": f"127.0.0.1:{port}",
            "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": f"http://127.0.0.1:{port}",
            "MLFLOW_SERVER_X_FRAME_OPTIONS": "DENY",
            "MLFLOW_UVICORN_OPTS": f"--app-dir {shlex.quote(str(packages()))}",
            "MLFLOW_AUTH_CONFIG_PATH": str(config),
            "MLFLOW_AUTH_ADMIN_USERNAME": os.environ["MLFLOW_TRACKING_USERNAME"],
            "MLFLOW_AUTH_ADMIN_PASSWORD": os.environ["MLFLOW_TRACKING_PASSWORD"],
        }
        env.pop("MLFLOW_TRACKING_URI")
        command = [
            sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port),
            "--workers", "2", "--app-name", "basic-auth",
        ]  # fmt: skip
        self._add(Part("mlflow", command, env))
        self._wait("mlflow", f"http://127.0.0.1:{port}/health")

    def _worker(self, name: str, pool: str, more: dict[str, str]) -> None:
        command = [
            sys.executable, "-m", "prefect", "worker", "start", "--pool", pool, "--limit", "1",
            "--name", name, "--install-policy", "never",
        ]  # fmt: skip
        self._add(Part(name, command, {**self.env, **more}))

    def _wait(self, name: str, url: str, auth: str | None = None) -> None:
        request = urllib.request.Request(url)
        if auth:
            coded = base64.b64encode(os.environ[auth].encode()).decode()
            request.add_header("Authorization", f"Basic {coded}")
        end = time.monotonic() + READY
        while time.monotonic() < end and not self.stopping.is_set():
            try:
                with urllib.request.urlopen(request, timeout=3):
                    return
            except OSError:
                time.sleep(0.3)
        raise StackError(f"{name} does not answer; its last words are in {self.logs / name}.log")


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path(".stack"), help="where state lives")
    parser.add_argument("--workers", type=int, default=1, help="one a GPU")
    parser.add_argument("--slots", type=int, help="runs at a time; default: the workers")
    parser.add_argument("--jobs", type=Path, help="YAML of scheduled jobs, as for `sfda serve`")
    parser.add_argument("--new-secrets", action="store_true", help="print a set of secrets and end")
    inputs = parser.parse_args()
    if inputs.new_secrets:
        print(new_secrets())
        return
    stack = None
    try:
        stack = Stack(inputs.folder, inputs.workers, inputs.slots or inputs.workers, inputs.jobs)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda *_: stack.stopping.set() if stack else None)
        stack.up()
        (stack.folder / "client.env").write_text(
            "".join(f"{name}={value}\n" for name, value in stack.client.items())
        )
        pids = {part.name: part.process.pid for part in stack.parts if part.process}
        print(json.dumps({**stack.client, "pids": pids}), flush=True)
        print(
            f"up; for `sfda` in another shell: set -a; . {stack.folder}/client.env; set +a "
            "(and the secrets). Ctrl-C ends all.",
            file=sys.stderr,
        )
        stack.watch()
    except (StackError, PostgresError, urllib.error.URLError, OSError) as error:
        print(f"infra/stack.py: {error}", file=sys.stderr)
        sys.exit(2)
    finally:
        if stack:
            stack.down()


if __name__ == "__main__":
    main()
