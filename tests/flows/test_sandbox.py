"""The adapting process reaches the target and nothing else, and finds what it would find anyway."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import small
from conftest import Home, World, sfda

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
        if name == "sfda.adaptation.worker":
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
        said = sfda(*ADAPT, "--source", world.bundle, "--target", world.target, *words)
        if said.code:
            return said, {}, {}
        run = tracking.client().get_run(said.json["mlflow_run_id"])
        place = tracking.client().download_artifacts(run.info.run_id, "attestation.json")
        return said.json, run.data.tags, json.loads(Path(place).read_text())


def test_the_result_is_that_of_the_unrestricted_process_and_the_run_attests_it(world, monkeypatch):
    open_said, open_tags, open_told = adapted(world, "open", "--method", "shot")
    assert open_tags["source_free"] == "not enforced: SFDA_CONFINE=off"
    assert not open_told["enforced"]
    monkeypatch.delenv("SFDA_CONFINE")
    said, tags, told = adapted(world, "closed", "--method", "shot")
    assert said["scores"] == open_said["scores"]
    assert said["metrics"] == open_said["metrics"]
    assert tags["source_free"] == f"enforced (Landlock, ABI {told['abi']})"
    assert told["enforced"]
    assert told["abi"] == abi()
    assert str(world.target) in told["read"]
    assert str(world.bundle) in told["read"]
    assert not [p for p in told["read"] if Path(p).is_relative_to(world.source)]
    assert {"source_sha256", "manifest_sha256", "code_sha256"} <= {k for k, v in told.items() if v}
    home = Home(world.folder / "homes" / "sandbox-closed")
    with home.entered():  # the curves came through the pipe
        history = tracking.client().get_metric_history(said["mlflow_run_id"], "epoch")
    assert [m.value for m in history] == [1, 2]


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
    said, tags, _ = adapted(world, "killed", "--method", "shot")
    assert list((world.folder / "homes" / "sandbox-killed").glob("runs/*/died"))
    assert tags["source_free"].startswith("enforced")
    assert (said["scores"], said["metrics"]) == (expected["scores"], expected["metrics"])
