"""`infra/stack.py` for tests: started in a folder of its own, asked over HTTP."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[2]
ENDED = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
HOW_LONG = 240.0  # seconds the stack may take to come up


def why_not() -> str | None:
    """Why the stack cannot run here, or None."""
    if not any(Path("/usr/lib/postgresql").glob("*/bin/initdb")):
        return "no PostgreSQL on this machine (package `postgresql`)"
    return None


class Stacked:
    """A running stack."""

    def __init__(self, process: subprocess.Popen[bytes], folder: Path, env: dict[str, str]) -> None:
        self.process, self.folder, self.env = process, folder, env

    def call(self, path: str, body: Any = None) -> Any:
        """Ask Prefect's API, for as long as it takes it to come back."""
        data = None if body is None else json.dumps(body).encode()
        secret = base64.b64encode(self.env["PREFECT_API_AUTH_STRING"].encode()).decode()
        headers = {"content-type": "application/json", "Authorization": f"Basic {secret}"}
        request = urllib.request.Request(f"{self.env['PREFECT_API_URL']}/{path}", data, headers)
        for _ in range(120):
            try:
                with urllib.request.urlopen(request, timeout=30) as answer:
                    return json.load(answer)
            except urllib.error.HTTPError as error:
                if error.code < 500:
                    raise
            except OSError:
                pass
            time.sleep(1)
        raise AssertionError(f"{path}: no answer")

    def start(self, deployment: str, **parameters: Any) -> str:
        """Order a run; its id."""
        result = self.call(f"deployments/name/{deployment}")
        body = {"parameters": result["parameters"] | parameters}
        return str(self.call(f"deployments/{result['id']}/create_flow_run", body)["id"])

    def runs(self, ids: list[str] | None = None) -> list[dict[str, Any]]:
        """Runs with these ids, or all, scheduled ones left out."""
        chosen: Any = {"state": {"type": {"not_any_": ["SCHEDULED"]}}}
        if ids is not None:
            chosen = {"id": {"any_": ids}}
        result: list[dict[str, Any]] = self.call(
            "flow_runs/filter", {"flow_runs": chosen, "sort": "EXPECTED_START_TIME_ASC"}
        )
        return result

    def parts(self) -> dict[str, psutil.Process]:
        """The live processes that the stack keeps up, by name."""
        words = {
            "postgres": "/bin/postgres", "s3": "moto.server", "prefect": "server start",
            "mlflow": "mlflow server",
        }  # fmt: skip
        result = {}
        for child in psutil.Process(self.process.pid).children():
            line = " ".join(child.cmdline())
            for name, word in words.items():
                if word in line:
                    result[name] = child
            if "worker start" in line:
                result[line.partition("--name ")[2].split()[0]] = child
        return result

    def flows(self) -> list[psutil.Process]:
        """Processes that run a flow at this moment."""
        result = []
        for process in psutil.process_iter(["cmdline", "environ"]):
            line = " ".join(process.info["cmdline"] or ())
            ours = (process.info["environ"] or {}).get("SFDA_HOME") == self.env["SFDA_HOME"]
            if "prefect.engine" in line and ours:
                result.append(process)
        return result

    @property
    def home(self) -> Path:
        return Path(self.env["SFDA_HOME"])


@contextmanager
def stack(*words: str) -> Iterator[Stacked]:
    """A stack with fresh secrets, until the block ends."""
    folder = Path(tempfile.mkdtemp(prefix="stack", dir="/tmp"))
    folder.chmod(0o755)  # PostgreSQL's user must get to its data
    ours = ("PREFECT_", "MLFLOW_", "SFDA_CONFINE", "SFDA_HOME")
    clean = {k: v for k, v in os.environ.items() if not k.startswith(ours)}
    program = [sys.executable, str(ROOT / "infra" / "stack.py")]
    env = clean | {"PYTHONPATH": str(ROOT)}
    message = subprocess.run([*program, "--new-secrets"], env=env, capture_output=True, text=True)
    env |= dict(line.split("=", 1) for line in message.stdout.split())
    with (folder / "out").open("wb") as out, (folder / "err").open("wb") as err:
        process = subprocess.Popen(
            [*program, "--folder", str(folder), *words], env=env, stdout=out, stderr=err
        )
    try:
        end = time.monotonic() + HOW_LONG
        while not (text := (folder / "out").read_text()).endswith("\n"):
            assert process.poll() is None, (folder / "err").read_text()
            assert time.monotonic() < end, (folder / "err").read_text()
            time.sleep(0.3)
        output = json.loads(text)
        output.pop("pids")
        yield Stacked(process, folder, env | output)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(120)
        if not os.environ.get("SFDA_KEEP_STACK"):
            shutil.rmtree(folder, ignore_errors=True)
