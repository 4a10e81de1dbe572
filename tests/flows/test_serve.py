"""`sfda serve`: jobs of a file become scheduled deployments, and their runs adapt."""

from __future__ import annotations

import base64
import csv
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import small
from conftest import Home, World, sfda
from patience import DEADLINE, eventually
from PIL import Image

from sfda.errors import BadInput

pytestmark = pytest.mark.flow
SFDA = [sys.executable, "-P", "-c", "from flows.cli.app import main; main()"]

JOBS = """
jobs:
  - name: site
    every: 1h
    target: images
    source: toy
    register_as: served
    method: shot
    epochs: 1
    settings: {schedule: {lr: 0.03, batch_size: 8, decay: none}}
  - name: nightly
    cron: 0 2 * * *
    timezone: Europe/Vienna
    target: images
    source: models:/toy@source
"""


def jobs_file(folder: Path, text: str = JOBS) -> Path:
    path = folder / "jobs.yaml"
    path.write_text(text)
    return path


def test_jobs_become_deployments_with_their_schedules_and_one_run_at_a_time(world, tmp_path):
    from flows.deployments import deployments, read_jobs

    result = {d.name: d for d in deployments(read_jobs(jobs_file(tmp_path)))}
    assert set(result) == {
        "adapt", "refresh", "compare", "query", "ask", "audit", "pipeline", "tune",
        "promote", "rollback", "clean", "site",
        "nightly",
    }  # fmt: skip
    site, nightly = result["site"], result["nightly"]
    assert site.parameters == {
        "target": str(tmp_path / "images"), "source": str(tmp_path / "toy"), "target_name": "site",
        "adaptation": {
            "name": "served", "method": "shot", "epochs": 1,
            "settings": {"schedule": {"lr": 0.03, "batch_size": 8, "decay": "none"}},
        },
    }  # fmt: skip
    assert nightly.parameters["source"] == "models:/toy@source"
    assert [s.schedule.interval for s in site.schedules] == [timedelta(hours=1)]
    assert [(s.schedule.cron, s.schedule.timezone) for s in nightly.schedules] == [
        ("0 2 * * *", "Europe/Vienna")
    ]
    assert not result["adapt"].schedules
    assert {d.concurrency_limit for d in (site, nightly)} == {1}
    assert all(d.tags == ["sfda"] for d in result.values())


def test_a_home_is_cleaned_every_night_unless_the_file_says_otherwise(world, tmp_path):
    from flows.deployments import Jobs, deployments, read_schedule

    (usual,) = (d for d in deployments((), Jobs().clean) if d.name == "every-night")
    assert usual.flow_name == "clean"
    assert [s.schedule.cron for s in usual.schedules] == ["30 3 * * *"]
    assert usual.parameters == {"policy": {"older_than": "30d", "keep": 10}}
    text = f"{JOBS}clean: {{older_than: 7d, keep: 2, cron: 0 4 * * *}}\n"
    (stated,) = (
        d
        for d in deployments((), read_schedule(jobs_file(tmp_path, text)).clean)
        if d.name == "every-night"
    )
    assert [s.schedule.cron for s in stated.schedules] == ["0 4 * * *"]
    assert stated.parameters == {"policy": {"older_than": "7d", "keep": 2}}
    off = read_schedule(jobs_file(tmp_path, f"{JOBS}clean: false\n"))
    assert "every-night" not in {d.name for d in deployments((), off.clean)}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("jobs:", "clean: {older_than: soon}\njobs:"), "older_than"),
        (("jobs:", "clean: {cron: at night}\njobs:"), "clean"),
        (("every: 1h", "every: soon"), "every"),
        (("every: 1h", ""), "`every` (30m) or `cron`"),
        (("cron: 0 2 * * *", "cron: at night"), "nightly"),
        (("cron: 0 2 * * *", "cron: 0 0 30 2 *"), "names no day that comes"),
        (("cron: 0 2 * * *", "cron: 0 0 29 2 * 0 1996"), "names no day that comes"),
        (("name: nightly", f"name: {'n' * 101}"), "name"),
        (("name: nightly", "name: site"), "two jobs are called site"),
        (("method: shot", "method: magic"), "magic"),
        (("epochs: 1", "epochs: 0"), "epochs"),
        (("epochs: 1", "epoks: 1"), "epoks"),
        (("epochs: 1", "decision: {alpha: 0.9}"), "decision.alpha"),
        (("epochs: 1", "decision: {vetoes: {one_clas: 0.5}}"), "decision.vetoes.one_clas"),
        (("jobs:", "tasks:"), "a key `jobs`"),
        (("jobs:", "jobs: ["), "is not YAML"),
    ],
)
def test_faults_of_a_jobs_file_are_named(world, tmp_path, change, said):
    from flows.deployments import read_jobs

    with pytest.raises(BadInput, match=r"jobs\.yaml") as caught:
        read_jobs(jobs_file(tmp_path, JOBS.replace(*change)))
    assert said in str(caught.value)


def test_a_missing_jobs_file_is_named(tmp_path):
    from flows.deployments import read_jobs

    with pytest.raises(BadInput, match=r"no file .*jobs\.yaml"):
        read_jobs(tmp_path / "jobs.yaml")


def test_the_automations_end_dead_runs_and_start_crashed_ones_again(world):
    from prefect.client.orchestration import get_client

    from tasks.prefect_runtime.automations import automations, install

    with pytest.raises(BadInput, match="no such block"):
        automations("slack-webhook/nowhere")
    with pytest.raises(BadInput, match="KIND/NAME"):
        automations("slack")
    names = ["sfda-crash-zombies", "sfda-crash-stuck", "sfda-go-on"]
    for dead in automations()[:2]:  # a run that waits for people has no process, and is not dead
        assert "prefect.flow-run.Suspended" in dead.trigger.expect
    with get_client(sync_client=True) as client:
        for _ in range(2):  # the second time brings them up to date, it does not double them
            assert install() == names
            assert [len(client.read_automations_by_name(n)) for n in names] == [1, 1, 1]
        for name in names:
            client.delete_automation(client.read_automations_by_name(name)[0].id)


def test_a_run_that_has_ended_is_not_called_crashed(world):
    """As after a heartbeat that comes late: the automations' own action, on Prefect's server."""
    from prefect import flow
    from prefect.client.orchestration import get_client
    from prefect.states import Cancelled, Completed, Failed, Running, State

    from tasks.prefect_runtime.automations import automations

    actions = [action for dead in automations()[:2] for action in dead.actions]
    with get_client(sync_client=True) as client:
        for action in actions:
            for ended in (Completed(), Failed(), Cancelled()):
                run = client.create_flow_run(flow(lambda: None, name="ended"), state=Running()).id
                for state, expected in ((ended, "ACCEPT"), (State(type=action.state), "ABORT")):
                    result = client.set_flow_run_state(run, state, force=action.force)
                    assert result.status.value == expected
                assert client.read_flow_run(run).state.type == ended.type
            run = client.create_flow_run(flow(lambda: None, name="dead"), state=Running()).id
            dead = client.set_flow_run_state(run, State(type=action.state), force=action.force)
            assert dead.status.value == "ACCEPT"


def test_a_run_that_died_too_often_ends():
    from types import SimpleNamespace

    from tasks.prefect_runtime.attempts import MOST, TooManyStarts, refuse_endless

    refuse_endless(SimpleNamespace(run_count=MOST))
    with pytest.raises(TooManyStarts, match=f"died {MOST} times"):
        refuse_endless(SimpleNamespace(run_count=MOST + 1))


def plant(folder: Path) -> None:
    """What an unpacked archive may bring along: modules that are called as others, settings."""
    text = f"open({str(folder / 'ran')!r}, 'a').write(__name__ + ' ')"
    names = ("prefect", "mlflow", "uvicorn", "sqlalchemy", "flows", "tasks", "sfda", "timm", "gzip")
    for name in names:
        (folder / f"{name}.py").write_text(text)
    called = {"()": "builtins.open", "file": str(folder / "ran"), "mode": "a"}
    logs = {"version": 1, "handlers": {"console": called}, "root": {"handlers": ["console"]}}
    (folder / "logs.yml").write_text(json.dumps(logs))
    settings = f'config_path = "{folder / "logs.yml"}"'
    (folder / "prefect.toml").write_text(f"[logging]\n{settings}\n")
    (folder / "pyproject.toml").write_text(f"[tool.prefect.logging]\n{settings}\n")
    (folder / ".env").write_text("PREFECT_API_URL=http://127.0.0.1:1/api\n")


class Served:
    """A running `sfda serve` and its Prefect API."""

    def __init__(self, process: subprocess.Popen[bytes], folder: Path, env: dict[str, str]) -> None:
        self.process, self.folder, self.env = process, folder, env
        self.said: dict[str, Any] = {}

    def wait(self) -> None:
        end = time.monotonic() + DEADLINE
        while time.monotonic() < end and self.process.poll() is None:
            if (text := (self.folder / "out").read_text()).endswith("\n"):
                self.said = json.loads(text)
                return
            time.sleep(0.2)
        raise AssertionError((self.folder / "err").read_text())

    def call(self, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            f"{self.said['prefect_api']}/{path}",
            data,
            {"content-type": "application/json", "authorization": self.basic()},
        )
        for _ in range(20):
            try:
                with urllib.request.urlopen(request, timeout=30) as answer:
                    return json.load(answer)
            except urllib.error.HTTPError as error:
                if error.code != 503:  # SQLite is busy; Prefect's own client tries again, too
                    raise
            except TimeoutError:
                if data is not None:  # it may have been heard
                    raise
            time.sleep(1)
        raise AssertionError(f"{path}: busy")

    def basic(self) -> str:
        secret = (self.folder / "home" / "secrets" / "prefect").read_text().strip()
        return "Basic " + base64.b64encode(secret.encode()).decode()

    def page(self, name: str) -> str:
        """The address of a page for programs."""
        return str(self.said[f"{name}_address"])

    def start(self, deployment: str, **parameters: Any) -> str:
        result = self.call(f"deployments/name/{deployment}")
        made = self.call(
            f"deployments/{result['id']}/create_flow_run",
            {"parameters": result["parameters"] | parameters},
        )
        return str(made["id"])

    def sfda(self, *words: object) -> Any:
        """Call the command line beside the server."""
        message = subprocess.run(
            [*SFDA, *map(str, words), "--json"],
            capture_output=True, text=True,
            env=self.env | {"PREFECT_API_URL": f"{self.page('prefect')}/api"},
        )  # fmt: skip
        assert message.returncode == 0, message.stderr
        return json.loads(message.stdout)

    def sfda_here(self, *words: object) -> Any:
        """The same in this process, whose Prefect already knows another server."""
        from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

        api, home = f"{self.page('prefect')}/api", self.folder / "home"
        secret = (home / "secrets" / "prefect").read_text().strip()
        with (
            Home(home).entered(),
            pytest.MonkeyPatch.context() as patch,
            temporary_settings({PREFECT_API_URL: api, PREFECT_API_AUTH_STRING: secret}),
        ):
            patch.setenv("PREFECT_API_URL", api)
            return sfda(*words, "--json").json

    def end(self, run: str, *states: str) -> Any:
        ends = states or ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
        state = eventually(
            lambda: self.call(f"flow_runs/{run}")["state"], lambda state: state["type"] in ends
        )
        assert state["type"] in ends, (self.folder / "err").read_text()
        return state


@pytest.fixture(scope="module")
def served(
    world: World, tmp_path_factory: pytest.TempPathFactory, template_prefect: Path
) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("served")
    (folder / "home").mkdir(mode=0o700)
    shutil.copytree(template_prefect, folder / "home" / "prefect")
    images, old = folder / "images", time.time() - 3600
    images.mkdir()
    for number, image in enumerate(small.target_arrays()["x"]):
        path = images / f"{number:03d}.png"
        Image.fromarray(image).save(path)
        os.utime(path, (old, old))
    small.bundle(folder / "toy")
    small.write(folder, "target", small.target_arrays(), small.TARGET)
    plant(folder)
    words = ["serve", "--jobs", str(jobs_file(folder)), "--json"]
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "MLFLOW_"))}
    env |= {"SFDA_HOME": str(folder / "home"), "PREFECT_API_URL": ""}  # empty is as not set
    with (folder / "out").open("wb") as out, (folder / "err").open("wb") as err:
        process = subprocess.Popen(
            [*SFDA, *words],
            stdout=out, stderr=err, cwd=folder, env=env,
            start_new_session=True,
        )  # fmt: skip
    result = Served(process, folder, env)
    try:
        result.wait()
        yield result
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def test_a_job_adapts_at_its_first_look_and_has_nothing_to_do_at_its_second(served):
    assert "refresh-target/site" in served.said["deployments"]
    first = served.end(served.start("refresh-target/site"))
    assert (first["type"], first["name"]) == ("COMPLETED", "Adapted"), first["message"]
    assert "models:/served/1" in first["message"]
    second = served.end(served.start("refresh-target/site"))
    assert (second["type"], second["name"]) == ("COMPLETED", "Unchanged"), second["message"]


def test_servers_are_open_to_nobody_without_the_secret(served):
    pulls = {"pull_steps": [{"prefect.deployments.steps.run_shell_script": {"script": "id"}}]}
    result = served.call("deployments/name/refresh-target/site")["id"]
    for api in (served.said["prefect_api"], f"{served.page('prefect')}/api"):
        for headers in ({}, {"origin": "http://evil.example"}, {"host": "evil.example"}):
            with httpx.Client(base_url=api, headers=headers, trust_env=False) as client:
                assert client.patch(f"/deployments/{result}", json=pulls).status_code in (401, 421)
                read = client.post("/flows/filter", json={})
                assert read.status_code in (401, 421)
                assert read.headers.get("access-control-allow-origin") is None
    assert served.call(f"deployments/{result}")["pull_steps"] != pulls["pull_steps"]
    experiments = f"{served.page('mlflow')}/api/2.0/mlflow/experiments/search?max_results=1"
    assert httpx.get(experiments, trust_env=False).status_code == 401


def test_links_open_the_pages_and_no_secret_is_in_an_argument_or_a_log(served):
    for name in ("mlflow", "prefect"):
        link = httpx.URL(served.said[f"{name}_url"])
        headers = {"host": link.netloc.decode()}  # a browser finds the name on this machine
        by_number = link.copy_with(host="127.0.0.1")
        with httpx.Client(trust_env=False, follow_redirects=True, headers=headers) as browser:
            page = browser.get(by_number)
            assert page.status_code == 200
            assert "<html" in page.text
            assert "default-src 'self'" in page.headers["content-security-policy"]
            again = httpx.get(by_number, trust_env=False, headers=headers)
            assert again.status_code == 401
    listens = {
        one.laddr.ip
        for process in psutil.Process(served.process.pid).children(recursive=True)
        for one in process.net_connections()
        if one.status == psutil.CONN_LISTEN
    }
    assert listens == {"127.0.0.1"}
    home = served.folder / "home"
    secrets = [(home / "secrets" / "prefect").read_text().strip().partition(":")[2]]
    secrets += [served.said[f"{name}_url"].partition("key=")[2] for name in ("mlflow", "prefect")]
    everyone = [served.process.pid]
    everyone += [one.pid for one in psutil.Process(served.process.pid).children(recursive=True)]
    words = b"".join(Path(f"/proc/{one}/cmdline").read_bytes() for one in everyone)
    words += b"".join(file.read_bytes() for file in (home / "logs").rglob("*") if file.is_file())
    words += (served.folder / "err").read_bytes()
    assert not [secret for secret in secrets if secret.encode() in words]
    assert home.stat().st_mode & 0o777 == 0o700


def test_the_form_refuses_a_wrong_parameter(served):
    with pytest.raises(urllib.error.HTTPError) as caught:
        served.start("refresh-target/site", adaptation={"method": "magic"})
    assert caught.value.code == 409
    assert "magic" in caught.value.read().decode()


def test_runs_of_a_schedule_are_planned_ahead(served):
    of_site = {
        "deployments": {"name": {"any_": ["site"]}},
        "flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}},
    }
    assert eventually(lambda: served.call("flow_runs/filter", of_site))


def test_a_run_that_needs_labels_suspends_and_goes_on_from_the_answers(served):
    run = served.start(
        "ask-and-adapt/ask", model=str(served.folder / "toy"), budget="6", by="margin",
        target=str(served.folder / "target.yaml"), method="lp_ft", name="asked", epochs=1,
    )  # fmt: skip
    assert served.end(run, "PAUSED", "FAILED")["name"] == "Suspended"
    request = served.folder / "home" / "requests" / run
    asked = served.sfda("status")["labels_wanted"]
    assert [(one["folder"], one["count"], one["flow_run_id"]) for one in asked] == [
        (str(request), 6, run)
    ]
    rows = list(csv.DictReader((request / "request.csv").open()))
    wrong = served.folder / "wrong.csv"
    _write_answers(wrong, rows, ["cat"] * 6)
    served.call(f"flow_runs/{run}/resume", {"run_input": {"answers": str(wrong)}})
    of_run = {"artifacts": {"flow_run_id": {"any_": [run]}}}
    assert eventually(
        lambda: [
            artifact
            for artifact in served.call("artifacts/filter", of_run)
            if "unknown class" in str(artifact["data"])
        ]
    )
    assert served.end(run, "PAUSED", "FAILED")["name"] == "Suspended"
    right = served.folder / "right.csv"
    labels = small.target_arrays()["y"]
    _write_answers(right, rows, [small.CLASSES[labels[int(row["index"])]] for row in rows])
    order = served.sfda("answer", request, right, "--target", served.folder / "target.yaml")
    assert (order["answered"], order["resumed"]) == (6, run)
    state = served.end(run)
    assert state["type"] == "COMPLETED", state["message"]
    after = served.sfda_here("status")
    assert after["labels_wanted"] == []
    (model,) = [one for one in after["models"] if one["name"] == "asked"]
    assert (model["versions"], model["candidate"]) == (1, "1")
    assert after["jobs"]["states"]["Completed"] >= 1


def test_nothing_of_the_current_folder_ran(served):
    """After all runs above: in the command, its servers and its runs."""
    assert not (served.folder / "ran").exists()
    assert ".env names a Prefect server and is not read" in (served.folder / "err").read_text()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux shows what lives")
@pytest.mark.slow  # 20 s of servers
def test_killed_pages_leave_no_server_behind(tmp_path):
    plant(tmp_path)
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "MLFLOW_"))}
    env["SFDA_HOME"] = str(tmp_path / "home")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        with socket.create_server(("127.0.0.1", 0)) as other:
            free = other.getsockname()[1]
        ports = ["--mlflow-port", str(taken.getsockname()[1]), "--prefect-port", str(free)]
        process = subprocess.Popen(
            [*SFDA, "ui", *ports, "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            cwd=tmp_path, env=env, text=True,
        )  # fmt: skip
        assert process.stdout
        urls = json.loads(process.stdout.readline())
    servers = psutil.Process(process.pid).children(recursive=True)
    assert len(servers) >= 4  # two servers, a worker, the proxy
    process.kill()
    lines = process.communicate()[1]
    assert f"taken, maybe by another user: mlflow's page is at {urls['mlflow_address']}" in lines
    assert not eventually(
        lambda: [one for one in servers if one.is_running() and one.status() != "zombie"],
        lambda living: not living,
    )
    assert not (tmp_path / "ran").exists()


def test_nothing_below_the_home_is_open_to_others(served):
    """After all runs above: what commands, servers, runs and MLflow wrote."""
    home = served.folder / "home"
    modes = {path: path.lstat() for path in (home, *home.rglob("*"))}
    assert len(modes) > 100
    assert [
        p for p, one in modes.items() if one.st_mode & 0o077 and not stat.S_ISLNK(one.st_mode)
    ] == []


def _write_answers(path: Path, rows: list[dict[str, str]], labels: list[str]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0]])
        writer.writeheader()
        writer.writerows([row | {"class": label} for row, label in zip(rows, labels, strict=True)])
