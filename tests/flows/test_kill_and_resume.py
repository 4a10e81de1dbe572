"""A job killed for good goes on where it was and ends as the undisturbed one; it promotes once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import small
import torch
from conftest import Home, World, sfda
from patience import eventually

from tasks import tracking
from tasks.champion import promotions_of
from tasks.tracking.models import model_ref

pytestmark = pytest.mark.flow

EPOCHS = 16  # enough to be caught in the middle
MAIN = "from flows.cli.app import main; main()"


def words(world: World) -> list[str]:
    """The command: small steps, so that all epochs differ to the last."""
    inputs = small.FAST | {"lr": 0.001, "batch_size": 4, "epochs": EPOCHS}
    settings = [w for n, value in inputs.items() for w in ("--set", f"schedule.{n}={value}")]
    return ["adapt", "--source", str(world.bundle), "--target", str(world.target), "--method",
            "aad", "--name", "toy", *settings, "--json"]  # fmt: skip


class Jobs:
    """Starts `sfda` as a user does, in a process group of its own that ends with the test."""

    def __init__(
        self,
        home: Home,
        world: World,
        inputs: list[str] | None = None,
        *,
        server: str | None = None,  # each of them starts one of its own
    ) -> None:
        self.home, self.words = home, inputs or words(world)
        self.env = {"SFDA_HOME": str(home.path), "OMP_NUM_THREADS": "1"}
        if server:
            secret = os.environ.get("PREFECT_API_AUTH_STRING")  # that this process's server demands
            self.env |= {"PREFECT_API_URL": server}
            self.env |= {"PREFECT_API_AUTH_STRING": secret} if secret else {}
        self.started: list[subprocess.Popen[str]] = []

    def start(self, *more: str) -> subprocess.Popen[str]:
        unset = {name for name in os.environ if name.startswith(("PREFECT_", "MLFLOW_"))}
        env = {name: value for name, value in os.environ.items() if name not in unset}
        job = subprocess.Popen(
            [sys.executable, "-c", MAIN, *self.words, *more],
            env=env | self.env,
            cwd=self.home.path,
            stdout=subprocess.PIPE,
            stderr=(self.home.path / f"stderr-{len(self.started)}").open("w"),
            text=True,
            start_new_session=True,
        )
        self.started.append(job)
        return job

    def end(self) -> None:
        """End what a killed job left, such as Prefect's temporary server."""
        for job in self.started:
            try:
                os.killpg(job.pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
            job.wait()


@pytest.fixture
def jobs(world: World) -> Iterator[Jobs]:
    made = Jobs(world.used_home("killed"), world)
    yield made
    made.end()


def state_of(home: Home) -> Path | None:
    return next(iter(home.path.glob("runs/*/state.pt")), None)


def outcome(home: Home, output: Any) -> dict[str, Any]:
    """All that must not depend on the kill."""
    (history,) = home.path.glob("runs/*/history.json")
    return {
        "sha256": model_ref(output["uri"]).sha256,
        "scores": output["scores"],
        "selected_epoch": output["selected_epoch"],
        "metrics": output["metrics"],
        "epochs": [
            {name: epoch[name] for name in ("epoch", "scores", "sha256", "losses")}
            for epoch in json.loads(history.read_text())
        ],
    }


def test_a_killed_job_started_again_ends_as_the_undisturbed_one(world, jobs):
    undisturbed = world.home("undisturbed")
    with undisturbed.entered():
        expected = outcome(undisturbed, sfda(*words(world)).json)
    assert len({epoch["sha256"] for epoch in expected["epochs"]}) == EPOCHS

    job, end = jobs.start(), time.monotonic() + 120
    while state_of(jobs.home) is None:
        assert job.poll() is None, (jobs.home.path / "stderr-0").read_text()
        assert time.monotonic() < end
        time.sleep(0.01)
    os.kill(job.pid, signal.SIGKILL)
    assert job.wait() == -signal.SIGKILL
    done = torch.load(state_of(jobs.home))["next_epoch"]
    assert 1 <= done < EPOCHS
    with jobs.home.entered():
        (run,) = tracking.client().search_runs([tracking.experiment()])
        assert run.info.status == "RUNNING"  # nobody was left to end it
        assert tracking.versions("toy") == []

    job = jobs.start()
    output, _ = job.communicate(timeout=120)
    errors = (jobs.home.path / "stderr-1").read_text()
    assert job.returncode == 0, errors
    assert f"epoch {done + 1}/{EPOCHS}" in errors
    assert f"epoch {done}/{EPOCHS}" not in errors  # it went on where it had stopped
    assert output.count("\n") == 1  # one JSON object and nothing else
    with jobs.home.entered():
        assert outcome(jobs.home, json.loads(output)) == expected
        (again,) = tracking.client().search_runs([tracking.experiment()])
        assert (again.info.run_id, again.info.status) == (run.info.run_id, "FINISHED")
        assert [v.version for v in tracking.versions("toy")] == ["1"]
        curve = tracking.client().get_metric_history(run.info.run_id, "score/infomax")
        assert sorted(point.step for point in curve) == list(range(1, EPOCHS + 1))


def test_nothing_is_promoted_by_a_kill_and_two_jobs_do_not_promote_against_one_champion(world):
    """Jobs of one server wait at the lock of promotions, which this test holds: they are registered
    by then.
    """
    from prefect.settings import PREFECT_API_URL

    settings = [
        word
        for name, value in (small.FAST | {"epochs": 4}).items()
        for word in ("--set", f"schedule.{name}={value}")
    ]
    better = ["adapt", "--source", str(world.bundle), "--target", str(world.target), "--method",
              "aad", "--name", "toy", *settings, "--set", "lr_scale.backbone=1", "--promote",
              "--json"]  # fmt: skip
    jobs = Jobs(world.home("promoting"), world, better, server=str(PREFECT_API_URL.value()))

    def wait_for(count: int, *started: subprocess.Popen[str]) -> None:
        def registered() -> bool:
            assert all(job.poll() is None for job in started), "a job has ended before its turn"
            return len(tracking.versions("toy")) == count

        assert eventually(registered)

    try:
        with jobs.home.entered():
            with promotions_of("toy"):
                first = jobs.start()
                wait_for(1, first)
                os.killpg(first.pid, signal.SIGKILL)
                first.wait()
                assert tracking.by_alias("toy", "champion") is None
                assert "verdict" not in tracking.version_tags(tracking.find_version("toy", "1"))
                again = jobs.start()
                other = jobs.start("--seed", "1")
                wait_for(2, again, other)
                assert tracking.by_alias("toy", "champion") is None
            ends = [json.loads(job.communicate(timeout=300)[0]) for job in (again, other)]
            held_against = {end["champion"]: end for end in ends}
            (winner,) = (end for end in ends if end["champion"] == str(world.bundle))
            assert winner["promoted"]
            loser = held_against[f"models:/toy/{winner['version']}"]
            champions = [end["version"] for end in (winner, loser) if end["promoted"]]
            assert tracking.champions("toy") == champions
            assert len(tracking.versions("toy")) == 2  # the killed job registered nothing twice
    finally:
        jobs.end()
