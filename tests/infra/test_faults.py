"""Whatever is killed, whenever: every job ends as if nothing had happened."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import small
import stacked

pytestmark = [
    pytest.mark.slow,
    pytest.mark.stack,
    pytest.mark.skipif(stacked.why_not() is not None, reason=stacked.why_not() or ""),
]

JOBS = 14
KILLS = int(os.environ.get("SFDA_KILLS", "32"))
MOST_STARTS = 3  # of one run, after which it would be given up
PATIENCE = 3000.0  # seconds for all jobs together
SETTINGS = {"schedule": {**small.FAST, "epochs": 40}}
KINDS = ("flow", "worker", "mlflow", "postgres")


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source model and a labelled target."""
    folder = tmp_path_factory.mktemp("faults")
    small.bundle(folder / "source")
    small.write(folder, "target", small.target_arrays(), small.TARGET)
    return folder


def parameters(folder: Path, seed: int) -> dict[str, Any]:
    return {
        "source": str(folder / "source"), "target": str(folder / "target.yaml"),
        "method": "shot", "settings": SETTINGS, "seed": seed, "name": f"job-{seed}",
        "promote": True,
    }  # fmt: skip


def undisturbed(folder: Path) -> dict[str, tuple[str, Any]]:
    """Digest and report of each job, run in one quiet process with a home of its own."""
    program = """
import json, sys
from pathlib import Path
from tasks.prefect_runtime.home import prepare_environment
prepare_environment()
from flows.adapt import adapt
from tasks import tracking
told = {}
for given in json.loads(sys.argv[1]):
    tags = tracking.version_tags(adapt(**given).version)
    told[given["name"]] = (tags["sha256"], json.loads(tags["report"]))
Path(sys.argv[2]).write_text(json.dumps(told))
"""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "MLFLOW_"))}
    words = [json.dumps([parameters(folder, seed) for seed in range(JOBS)]), str(folder / "told")]
    subprocess.run(
        [sys.executable, "-c", program, *words], check=True, capture_output=True,
        env=clean | {"SFDA_HOME": str(folder / "quiet"), "PYTHONPATH": str(stacked.ROOT)},
    )  # fmt: skip
    message: dict[str, Any] = json.loads((folder / "told").read_text())
    return {name: (result[0], result[1]) for name, result in message.items()}


def kill(on: stacked.Stacked, kind: str, rng: random.Random, started: dict[str, int]) -> str | None:
    """Kill one thing of a kind; what it was, or None where there is none to kill."""
    parts = on.parts()
    if kind == "flow":
        fit = [p for p in on.flows() if _starts(p, started) < MOST_STARTS]
        if not fit:
            return None
        victim = rng.choice(fit)
        victim.kill()
        return "flow"
    if kind == "worker":
        if any(_starts(p, started) >= MOST_STARTS for p in on.flows()):
            return None  # a polite end of the worker takes its run along
        name = rng.choice(["worker-0", "worker-1"])
        how = rng.choice([signal.SIGKILL, signal.SIGTERM])
        if name not in parts:
            return None
        parts[name].send_signal(how)
        return f"worker, {how.name}"
    if kind not in parts:
        return None
    for process in [*parts[kind].children(recursive=True), parts[kind]]:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    return kind


def _starts(process: psutil.Process, started: dict[str, int]) -> int:
    """How often the run of this process was started."""
    try:
        run = process.environ().get("PREFECT__FLOW_RUN_ID", "")
    except psutil.Error:
        return MOST_STARTS
    return started.get(run, 0)


def test_thirty_kills_lose_nothing_double_nothing_and_change_no_number(given, monkeypatch):
    expected = undisturbed(given)
    assert len({sha256 for sha256, _ in expected.values()}) > JOBS // 2  # seeds do differ
    rng, killed = random.Random(int(os.environ.get("SFDA_SEED", "0"))), []
    with stacked.stack("--workers", "2") as on:
        ids = [on.start("adapt/adapt", **parameters(given, seed)) for seed in range(JOBS)]
        end, next_kill = time.monotonic() + PATIENCE, time.monotonic() + 10
        while True:
            runs = on.runs(ids)
            states = [run["state_type"] for run in runs]
            if all(state in stacked.ENDED and state != "CRASHED" for state in states):
                break
            assert time.monotonic() < end, (killed, states)
            if len(killed) < KILLS and time.monotonic() > next_kill:
                started = {run["id"]: run["run_count"] for run in runs}
                if what := kill(on, rng.choice(KINDS), rng, started):
                    killed.append(what)
                    print(
                        f"{len(killed):3d} {what:16s} {states.count('COMPLETED')} done", flush=True
                    )
                    next_kill = time.monotonic() + rng.uniform(5, 40)
            time.sleep(0.5)
        assert {
            r["name"]: r["state"]["message"] for r in runs if r["state_type"] != "COMPLETED"
        } == {}
        assert len(killed) >= min(KILLS, 30)
        print({what: killed.count(what) for what in sorted(set(killed))})
        print({run["parameters"]["name"]: run["run_count"] for run in runs})
        time.sleep(5)  # for what might start once more
        left = [r["name"] for r in on.runs() if r["state_type"] not in stacked.ENDED]
        assert left == []
        for name, value in on.env.items():
            if name.startswith("MLFLOW_"):
                monkeypatch.setenv(name, value)
        _check_registry(on, expected)


def _check_registry(on: stacked.Stacked, expected: dict[str, tuple[str, Any]]) -> None:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(on.env["MLFLOW_TRACKING_URI"], on.env["MLFLOW_TRACKING_URI"])
    experiment = client.get_experiment_by_name("sfda")
    assert experiment is not None
    logged = client.search_runs([experiment.experiment_id], max_results=1000)
    assert {run.info.status for run in logged} == {"FINISHED"}
    assert len(logged) == JOBS
    for name, (sha256, report) in expected.items():
        (version,) = client.search_model_versions(f"name = '{name}'")
        assert version.version == "1"
        assert version.tags["sha256"] == sha256
        assert json.loads(version.tags["report"]) == report
        assert version.tags["verdict"]
        assert client.get_registered_model(name).aliases["candidate"] == "1"
