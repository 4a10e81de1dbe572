"""The smallest part of every benchmark runs: none is broken by a name that has changed."""

from __future__ import annotations

import importlib
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer.main
import yaml
from PIL import Image

from flows.cli.app import app
from sfda import plugins
from sfda.authoring.from_folder import build_manifest
from sfda.weights.bundle import write_bundle
from tests.bench import (
    bare,
    bloodcells,
    camvid,
    clustering,
    decide_statistics,
    figures,
    large_image,
    lpld_step,
    many_files,
    methods,
    neighbours,
    overhead,
    pose_step,
    queries,
    throughput,
)
from tests.bench.__main__ import NAMES

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", NAMES)
def test_each_measures_and_prints(name: str) -> None:
    module = importlib.import_module(f"tests.bench.{name}")
    assert callable(module.measure)
    assert callable(module.text)


def parsed(command: str) -> str:
    """The command's name, once all its options are known to it. Raises click's UsageError."""
    group: Any = typer.main.get_command(app)
    name, *words = shlex.split(re.sub(r"[{}]", "", command))
    group.commands[name].make_context(name, words, resilient_parsing=False)
    return name


def test_commands_of_the_tables_have_the_options_that_they_state(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Those of results.md, as `sfda` takes them; nothing is run."""
    commands = [f"subset {words} --out a.yaml" for words in figures.SUBSETS.values()]
    commands += [f"train-source {words} --name a" for words in figures.TRAIN.values()]
    commands += [f"compare {words} --seeds 0,1,2" for words in figures.COMPARE.values()]
    commands += [camvid.TRAIN, camvid.COMPARE]
    monkeypatch.setattr(bloodcells, "sfda", lambda command, env, out: commands.append(command))
    monkeypatch.setenv("SFDA_DATA", "data")
    bloodcells.measure(tmp_path)
    monkeypatch.setattr(overhead, "seconds", lambda words, env=None: record(commands, words))
    monkeypatch.setattr(subprocess, "run", lambda words, **more: None)
    (tmp_path / "demo").mkdir()
    overhead.call("demo", {"SFDA_HOME": str(tmp_path)})
    overhead.job_seconds(tmp_path, {}, 1)
    overhead.tick_seconds(tmp_path, {})
    assert len(commands) > len(figures.SUBSETS) + len(figures.TRAIN) + len(figures.COMPARE) + 2 + 4
    assert {parsed(command) for command in commands} == {
        "adapt", "compare", "refresh", "subset", "train-source"
    }  # fmt: skip
    for file in re.findall(r"data_manifests/\S+\.yaml", " ".join(commands)):
        assert (ROOT / file).is_file(), file


def record(commands: list[str], words: list[str]) -> float:
    commands.append(shlex.join(words[1:]))
    return 1.0


def test_the_bare_work_of_a_job(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    network = throughput.NETWORKS["classification"]
    spec = network.make_spec("sfda:lenet", ("a", "b"))
    torch.manual_seed(0)
    write_bundle(tmp_path / "model", network.build_from_spec(spec), spec)
    for label in "ab":
        pictures(tmp_path / "photos" / label, side=28, count=10)
    manifest = tmp_path / "drawn.yaml"
    build_manifest(tmp_path / "photos", problem="classification", out=manifest, classes=("a", "b"))
    asked: list[str] = []

    def noting(name: str, compute: Callable[[Any], float]) -> Callable[[Any], float]:
        def noted(validator: Any) -> float:
            asked.append(name)
            return compute(validator)

        return noted

    for name in bare.SCORES:
        kind = plugins.load("validators", name)
        monkeypatch.setattr(kind, "compute", noting(name, kind.compute))
    bare.main(str(manifest), str(tmp_path / "model"), 0, tmp_path / "scratch")
    assert sorted(asked) == sorted(bare.SCORES)


def test_a_large_image(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(large_image, "SIDE", 64)
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)
    large_image.write(tmp_path)
    case = large_image.evaluate(tmp_path, 19, False)
    assert case["pixels"] == 64 * 64
    row = {"name": "a", "classes": 19} | case
    assert "| a | 19 |" in large_image.text({"cases": [row]})


def test_many_files(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The steps in this process, one after the other, instead of a process each."""
    monkeypatch.setattr(many_files, "FILES", 12)
    monkeypatch.setattr(many_files, "ROWS", 9)
    monkeypatch.setattr(many_files, "_run", lambda code, *words: run_here(code, words))
    monkeypatch.setattr(sys, "argv", sys.argv)  # to be put back

    def run_here(code: str, words: tuple[object, ...]) -> Any:
        home = Path(str(words[1])) / "home"
        home.mkdir(mode=0o700, exist_ok=True)
        monkeypatch.setenv("SFDA_HOME", str(home))
        sys.argv = ["-c", *map(str, words)]
        exec(compile(many_files.BEGIN + code, "step", "exec"), {})
        printed = capsys.readouterr().out.splitlines()
        return json.loads(printed[-1]) if printed else None

    result = many_files.measure(tmp_path)
    assert len(result["steps"]) == 8
    assert many_files.text(result).count("\n") == 9


def test_steps_of_methods(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in {"SIDE": 64, "ROWS": 200, "BATCH": 8, "ROUNDS": 1}.items():
        monkeypatch.setattr(methods, name, value)
    result = methods.measure(tmp_path)
    assert set(result["methods"]) == set(methods.NAMES)
    assert "| glc |" in methods.text(result)


def test_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("faiss")
    monkeypatch.setattr(neighbours, "STEPS", {2000: 2})
    monkeypatch.setattr(neighbours, "WARM_UP", 1)
    row = neighbours.case(2000)
    assert row["recall"] > 0.5
    assert len(row["exact_ms"]) == 2


def test_clustering(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(clustering, "SIZE", 200)
    monkeypatch.setattr(clustering, "ROUNDS", 1)
    result = clustering.measure(tmp_path)
    assert result["known_share"] > 0
    assert "one epoch's one-vs-all step" in clustering.text(result)


def test_queries(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One of them, by the code of its process."""
    monkeypatch.setattr(queries, "SIZE", 400)
    queries.write(tmp_path)
    monkeypatch.setattr(sys, "argv", ["-c", str(tmp_path), "margin", "4"])
    exec(compile(queries.CHILD, "query", "exec"), {})
    shape = {"N": 400, "C": queries.CLASSES, "D": queries.DIM}
    result = {"queries": {"margin 1%": json.loads(capsys.readouterr().out)}, "shape": shape}
    assert "| margin 1% |" in queries.text(result)


def test_statistics_of_decisions() -> None:
    (some,) = decide_statistics.answers(60, 4, 2, 3, 0, runs=1)
    assert some.shape == (decide_statistics.AT_ONCE, 3)
    row = decide_statistics.null(60, 0.5)
    assert 0 <= min(value for value in row.values() if isinstance(value, float)) <= 1


def pictures(folder: Path, *, side: int, count: int = 40) -> Path:
    """A folder of images whose pixels are drawn."""
    generator = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for n in range(count):
        pixels = generator.integers(0, 256, (side, side, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{n:02d}.png")
    return folder


def test_throughput(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = pictures(tmp_path / "photos", side=28, count=80)
    (tmp_path / "data_manifests").mkdir()
    build_manifest(folder, problem="classification", out=tmp_path / "data_manifests" / "drawn.yaml")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(throughput, "ROUNDS", 1)
    case = throughput.case(tmp_path, "a", "drawn", "torchvision:squeezenet1_1", (40, 32), 1, "shot")
    assert "| a (weak view) |" in throughput.text({"cases": [case]})


def test_steps_of_poses_and_detectors(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = pictures(tmp_path / "photos", side=64)
    faces = tmp_path / "data_manifests" / "face5" / "net.yaml"
    cells = tmp_path / "data_manifests" / "bloodcells" / "pbc.yaml"
    for file, problem in ((faces, "pose"), (cells, "detection")):
        file.parent.mkdir(parents=True)
        build_manifest(folder, problem=problem, out=file)
    own = yaml.safe_load((ROOT / "data_manifests/face5/net.yaml").read_text(encoding="utf-8"))
    skeleton = {name: own[name] for name in ("classes", "skeleton") if name in own}
    faces.write_text(yaml.safe_dump(yaml.safe_load(faces.read_text()) | skeleton))
    monkeypatch.chdir(tmp_path)
    for module in (pose_step, lpld_step):
        monkeypatch.setattr(module, "ROUNDS", 1)
        monkeypatch.setattr(module, "STEPS", 1)
    case = pose_step.case(tmp_path, *pose_step.CASES[0])
    assert "one step" in pose_step.text({"a": case})
    assert "with something to distil" in lpld_step.text(lpld_step.measure(tmp_path))
