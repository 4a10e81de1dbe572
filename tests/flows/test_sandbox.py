"""The adapting process reaches the target and nothing else, and finds what it would find anyway."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import small
import small_det
import small_pose
from conftest import Home, World, sfda

from sfda.adaptation import worker
from sfda.sandbox import process
from sfda.sandbox.attest import WAYS
from sfda.sandbox.confine import Held
from sfda.sandbox.landlock import abi
from tasks import tracking

pytestmark = [
    pytest.mark.flow,
    pytest.mark.skipif(abi() < 1, reason="this kernel offers no Landlock"),
]
ADAPT = ["adapt", "--name", "toy", "--epochs", 2, "--json", "--device", "cpu"] + [
    word for name, value in small.FAST.items() for word in ("--set", f"schedule.{name}={value}")
]
SPY = """
import builtins, os, sys

if "sfda.sandbox.process" in sys.orig_argv:
    load, main = builtins.__import__, os.getpid()

    def spying(name, *given, **more):
        found = load(name, *given, **more)
        if name == "sfda.loading.batches":
            builtins.__import__ = load
            from sfda.loading import batch_making

            make = batch_making._BatchSet.__getitem__

            def look(self, job):
                assert (os.getpid() == main) == (WORKERS == 0)
                open(SOURCE, "rb").read()
                return make(self, job)

            batch_making._BatchSet.__getitem__ = look
        return found

    builtins.__import__ = spying
"""


def adapted(world: World, name: str, *words: object) -> tuple[Any, dict[str, str], dict[str, Any]]:
    """The command's answer, tags of the run and its attestation, in a home of its own."""
    home = world.home(f"sandbox-{name}")
    with home.entered():
        output = sfda(*ADAPT, "--source", world.bundle, "--target", world.target, *words)
        if output.code:
            return output, {}, {}
        run = tracking.client().get_run(output.json["mlflow_run_id"])
        folder = tracking.client().download_artifacts(run.info.run_id, "attestation.json")
        return output.json, run.data.tags, json.loads(Path(folder).read_text())


def test_the_result_is_that_of_the_unrestricted_process_and_the_run_attests_it(world, monkeypatch):
    open_said, open_tags, open_told = adapted(world, "open", "--method", "shot")
    assert open_tags["source_free"] == "not enforced: SFDA_CONFINE=off"
    assert not open_told["enforced"]
    monkeypatch.delenv("SFDA_CONFINE")
    output, tags, message = adapted(world, "closed", "--method", "shot")
    assert output["scores"] == open_said["scores"]
    assert output["metrics"] == open_said["metrics"]
    assert tags["source_free"] == f"enforced (Landlock, ABI {message['abi']})"
    assert message["enforced"]
    assert message["abi"] == abi()
    assert message["ways_out"].keys() == WAYS.keys()
    assert not [answer for answer in message["ways_out"].values() if answer.startswith("open")]
    assert not message["network"]
    assert not {str(world.target), str(world.target.with_suffix(".npz"))} & set(message["read"])
    assert str(world.bundle) in message["read"]
    assert not [p for p in message["read"] if Path(p).is_relative_to(world.source)]
    assert {"source_sha256", "manifest_sha256", "code_sha256"} <= {
        k for k, v in message.items() if v
    }
    home = Home(world.folder / "homes" / "sandbox-closed")
    with home.entered():  # the curves came through the pipe
        history = tracking.client().get_metric_history(output["mlflow_run_id"], "epoch")
    assert [m.value for m in history] == [1, 2]


def test_two_loader_workers_change_nothing(world, monkeypatch):
    """They hand their batches over by files, since sockets are refused."""
    expected, _, _ = adapted(world, "workers-open", "--method", "aad")
    monkeypatch.delenv("SFDA_CONFINE")
    output, _, message = adapted(world, "workers-closed", "--method", "aad", "--workers", 2)
    assert message["enforced"]
    assert (output["scores"], output["metrics"]) == (expected["scores"], expected["metrics"])


def test_nothing_of_a_hostile_result_is_registered(world, monkeypatch):
    """A process that was never restricted leaves what one inside might, if it could."""

    def run_job(job: process.SandboxJob, hear: Any) -> process.Done:
        order = worker.Order.model_validate(job.order["order"])
        result = worker.work(order, worker._Relay(lambda **message: hear(message), -1))
        for weights in job.folder.glob("epoch-*/weights.safetensors"):
            weights.unlink()
            weights.symlink_to(world.folder / "source.npz")
        (job.folder / "pipe").symlink_to("/dev/tty")
        ways = dict.fromkeys(WAYS, "refused")
        return process.Done(result.model_dump(mode="json"), Held(abi(), ways))

    monkeypatch.delenv("SFDA_CONFINE")
    monkeypatch.setattr(process, "run_job", run_job)
    output, _, _ = adapted(world, "hostile", "--method", "shot")
    assert output.code == 2
    message = [line for line in output.err.splitlines() if line.startswith("sfda: ")]
    assert len(message) == 1
    assert "links are not followed" in message[0]
    assert "Traceback" not in output.err
    with Home(world.folder / "homes" / "sandbox-hostile").entered():
        assert not tracking.versions("toy")


@pytest.mark.slow
@pytest.mark.parametrize("problem", ["detection", "pose"])
def test_the_other_problems_work_inside_with_two_workers(world, monkeypatch, problem):
    arch, write, more = {
        "detection": ("sfda:tinyrcnn", partial(small_det.write, seed=1), ()),
        "pose": ("pose:tiny", small_pose.write, ("--set", "without_prior=true")),
    }[problem]
    folder, home = world.folder / f"sandbox-{problem}", world.home(f"sandbox-{problem}")
    sizes = (small_det.SOURCE, small_det.TARGET)
    if problem == "pose":
        sizes = (small_pose.SOURCE, small_pose.TARGET)
    source, target = write(folder, "source", sizes[0]), write(folder, "target", sizes[1])
    few = ("--epochs", 1, "--set", "schedule.batch_size=8", "--json")
    result = []
    with home.entered():
        words = ("--data", source, "--arch", arch, "--name", "toy", *few)
        model = sfda("train-source", *words).json["uri"]
        for workers in (0, 2):
            words = ("--source", model, "--target", target, "--workers", workers, *more, *few)
            output = sfda("adapt", *words).json
            result.append((output["scores"], output["metrics"]))
            monkeypatch.delenv("SFDA_CONFINE", raising=False)  # from here on inside
            for remaining in ("results", "runs"):
                shutil.rmtree(home.path / remaining, ignore_errors=True)
    assert result[0] == result[1]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_read_of_the_source_is_denied_in_the_process_and_in_its_loaders(
    world, monkeypatch, tmp_path, workers
):
    """Python runs `sitecustomize` in every process; ours makes each batch read the source data."""
    monkeypatch.delenv("SFDA_CONFINE")
    source = world.folder / "source.npz"
    assert source.read_bytes()  # we may read it
    names = f"SOURCE, WORKERS = {str(source)!r}, {workers}\n"
    (tmp_path / "sitecustomize.py").write_text(names + SPY)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(RuntimeError, match=f"Permission denied: .*{source.name}"):
        adapted(world, f"spied{workers}", "--method", "shot", "--workers", workers)


def test_neither_orchestrator_nor_tracker_is_loaded_there():
    """They read files that nobody lists, and take seconds."""
    code = "import sys, sfda.adaptation.worker; print({'prefect', 'mlflow'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )  # fmt: skip
    assert done.stdout.strip() == "set()"


DIES = """
import os, pathlib, signal, sys

if "sfda.sandbox.process" in sys.orig_argv:
    marker = pathlib.Path(os.environ["TMPDIR"]).parent / "died"
    if not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_process_is_started_again_and_finds_the_same(world, monkeypatch, tmp_path):
    expected, _, _ = adapted(world, "unharmed", "--method", "shot")
    monkeypatch.delenv("SFDA_CONFINE")
    (tmp_path / "sitecustomize.py").write_text(DIES)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    output, tags, _ = adapted(world, "killed", "--method", "shot")
    assert list((world.folder / "homes" / "sandbox-killed").glob("runs/*/died"))
    assert tags["source_free"].startswith("enforced")
    assert (output["scores"], output["metrics"]) == (expected["scores"], expected["metrics"])
