"""The Prefect server of one command: when it starts, that it answers, that it ends."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

SERVES = """
import os, sys, time
from pathlib import Path
from tasks.prefect_runtime.server import start_server
server = start_server(Path(sys.argv[1]))
print(server and server.pid, os.environ.get("PREFECT_API_URL"), flush=True)
if sys.argv[2:] == ["ask"]:
    from prefect.client.orchestration import get_client
    with get_client(sync_client=True) as client:
        print(client.api_healthcheck(), client.read_flows(), flush=True)
if sys.argv[2:] == ["wait"]:
    time.sleep(100)
"""


def start(folder: Path, *words: str, **env: str) -> subprocess.Popen[str]:
    remaining = {name: v for name, v in os.environ.items() if not name.startswith("PREFECT_")}
    remaining["SFDA_HOME"] = str(folder / "home")
    remaining |= {
        "PREFECT_HOME": str(folder / "prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    }
    return subprocess.Popen(
        [sys.executable, "-c", SERVES, str(folder / "server.log"), *words],
        env=remaining | env, cwd=folder, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def lives(number: int) -> bool:
    try:
        stat = Path(f"/proc/{number}/stat").read_text()
    except FileNotFoundError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def ends(number: int) -> bool:
    """Whether a process is gone within its patience."""
    last = time.monotonic() + 20
    while lives(number) and time.monotonic() < last:
        time.sleep(0.05)
    return not lives(number)


@pytest.mark.flow
def test_a_request_waits_for_the_server_and_the_server_ends_with_the_command(tmp_path):
    out, _ = start(tmp_path, "ask").communicate(timeout=120)
    served, answer = out.splitlines()
    number, address = served.split()
    assert address.startswith("http://127.0.0.1:")
    assert answer == "None []"  # no exception to report
    assert ends(int(number))
    assert (tmp_path / "prefect" / "prefect.db").stat().st_mode & 0o777 == 0o600


@pytest.mark.flow
def test_the_server_refuses_whoever_does_not_know_the_secret(tmp_path, template_prefect):
    """Another user's shell: it sees the port and every argument, but not the environment."""
    shutil.copytree(template_prefect, tmp_path / "prefect")
    job = start(tmp_path, "wait")
    try:
        assert job.stdout
        number, address = job.stdout.readline().split()
        file = tmp_path / "home" / "secrets" / "prefect"
        secret = file.read_text().strip()
        assert (file.parent.parent.stat().st_mode & 0o777, file.parent.stat().st_mode & 0o777) == (
            0o700,
            0o700,
        )
        assert file.stat().st_mode & 0o777 == 0o600
        pulls = {"pull_steps": [{"prefect.deployments.steps.run_shell_script": {"script": "id"}}]}
        some = "00000000-0000-0000-0000-000000000000"
        with httpx.Client(base_url=address, trust_env=False, timeout=90) as client:
            for auth in (None, ("sfda", ""), ("sfda", "guess"), ("admin", secret[5:])):
                assert client.post("/flows/filter", json={}, auth=auth).status_code == 401
                patched = client.patch(f"/deployments/{some}", json=pulls, auth=auth)
                assert patched.status_code == 401
            user, _, password = secret.partition(":")
            known = client.post("/flows/filter", json={}, auth=(user, password))
            assert known.status_code == 200
        for process in (job.pid, int(number)):
            assert password.encode() not in Path(f"/proc/{process}/cmdline").read_bytes()
        assert password not in (tmp_path / "server.log").read_text()
    finally:
        job.kill()
        job.communicate()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells children of a kill")
def test_the_server_does_not_outlive_a_killed_command(tmp_path):
    job = start(tmp_path, "wait")
    assert job.stdout
    number = int(job.stdout.readline().split()[0])
    assert lives(number)
    os.kill(job.pid, signal.SIGKILL)
    job.communicate()
    assert ends(number)


@pytest.mark.parametrize(
    ("file", "text"),
    [
        (
            "prefect/profiles.toml",
            'active = "team"\n[profiles.team]\nPREFECT_API_URL = "http://team:4200/api"\n',
        ),
        (".env", "PREFECT_API_URL=http://team:4200/api\n"),
        ("prefect.toml", '[api]\nurl = "http://team:4200/api"\n'),
        ("pyproject.toml", '[tool.prefect.api]\nurl = "http://team:4200/api"\n'),
    ],
)
def test_a_server_that_the_user_named_in_a_file_is_left_to_prefect(tmp_path, file, text):
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text(text)
    out, _ = start(tmp_path).communicate(timeout=60)
    assert out == "None None\n"


def test_settings_without_an_address_leave_the_server_to_us(tmp_path):
    """Prefect would start one that demands no secret."""
    (tmp_path / "prefect.toml").write_text(
        '[api]\nrequest_timeout = 30\n[logging]\nlevel = "INFO"\n'
    )
    out, _ = start(tmp_path).communicate(timeout=60)
    assert "http://127.0.0.1:" in out


FROM_PYTHON = """
import flows, os, sys
from prefect import flow
from prefect.client.orchestration import get_client
@flow
def empty(): return os.environ["PREFECT_SERVER_API_AUTH_STRING"]
secret = empty()
with get_client(sync_client=True) as client:
    print(client.api_url, secret, len(client.read_flows()), flush=True)
    sys.stdin.read()
"""


@pytest.mark.slow  # Prefect starts its server anew
@pytest.mark.stack
def test_a_server_that_prefect_starts_for_a_flow_from_python_demands_a_secret(tmp_path):
    env = {name: v for name, v in os.environ.items() if not name.startswith("PREFECT_")}
    env |= {"PREFECT_HOME": str(tmp_path / "prefect"), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    job = subprocess.Popen(
        [sys.executable, "-c", FROM_PYTHON], env=env, cwd=tmp_path,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert job.stdout
        address, secret, count = job.stdout.readline().split()
        assert count == "1"
        asked = {"url": f"{address}flows/filter", "json": {}}
        with httpx.Client(trust_env=False, timeout=60) as client:
            assert client.post(**asked).status_code == 401
            assert client.post(**asked, auth=tuple(secret.split(":"))).status_code == 200
    finally:
        job.communicate("")


def test_a_server_that_the_user_named_in_the_environment_is_used(tmp_path):
    url = "http://team:4200/api"
    out, _ = start(tmp_path, PREFECT_API_URL=url).communicate(timeout=60)
    assert out == f"None {url}\n"
