"""A look in parts, on any task runner, gives what one look gives, to the last bit."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import small
import small_det
import small_pose
import small_seg
import torch
from conftest import World
from prefect import flow

from sfda.demo import figures
from sfda.errors import BadInput
from sfda.inference import over_split
from sfda.loading import opened as manifests
from sfda.problems.detection import network as detection
from sfda.problems.pose import network as pose
from sfda.refs import ModelRef, ModelSpec, PredictionsRef, Report
from sfda.weights.bundle import write_bundle
from tasks.evaluate import evaluate_model
from tasks.pseudo_label import pseudo_label
from tasks.shards import make_runner, shard_count

pytestmark = pytest.mark.flow


def random_bundle(folder: Path, problem: Any, spec: ModelSpec) -> ModelRef:
    torch.manual_seed(0)
    digest = write_bundle(folder, problem.build_from_spec(spec).eval(), spec)
    return ModelRef(
        uri=str(folder), sha256=digest, problem=spec.problem, arch=spec.arch, classes=spec.classes
    )


def gray(folder: Path) -> tuple[ModelRef, Path]:
    many = {"adapt": 600, "test": 300}
    inputs = small.arrays(many, seed=3, dull=True)
    return small.bundle(folder / "model"), small.write(folder, "target", inputs, many)


def scenes(folder: Path) -> tuple[ModelRef, Path]:
    return small_seg.bundle(folder / "model"), small_seg.write(
        folder, "target", {"adapt": 20, "test": 17}, seed=2
    )


def squares(folder: Path) -> tuple[ModelRef, Path]:
    spec = detection.make_spec("sfda:tinyrcnn", small_det.CLASSES)
    return random_bundle(folder / "model", detection, spec), small_det.write(
        folder, "target", {"adapt": 9, "test": 7}, seed=2
    )


def persons(folder: Path) -> tuple[ModelRef, Path]:
    spec = pose.make_spec("pose:tiny", tuple(figures.JOINTS))
    return random_bundle(folder / "model", pose, spec), small_pose.write(
        folder, "target", {"adapt": 150, "test": 70}
    )


@pytest.fixture(params=[gray, scenes, squares, persons], ids=lambda make: make.__name__)
def case(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[ModelRef, Path]:
    """Batches are small, so that a few images make several."""
    monkeypatch.setattr("sfda.inference.forward.BATCH_PIXELS", 2 * 64 * 64)
    if request.param is persons:
        monkeypatch.setattr("sfda.problems.pose.inference.CROPS_AT_ONCE", 16)
    made: tuple[ModelRef, Path] = request.param(tmp_path)
    return made


def looked(
    world: World, home: str, model: ModelRef, target: Path
) -> tuple[PredictionsRef, Report, list[str]]:
    """Predictions and a report, made in a flow with a home of its own; and the parts it ran."""

    @flow
    def look() -> tuple[PredictionsRef, Report]:
        ref = manifests.manifest_ref(str(target))
        part = manifests.split_ref(ref, "adapt")
        return (
            pseudo_label(model, part, "cpu"),
            evaluate_model(model, ref, "test", "cpu"),
        )

    ran: list[str] = []
    whole = over_split.write_part

    def counted(file: Path, answers: Any, problem: str) -> None:
        ran.append(file.name)
        whole(file, answers, problem)

    folder = world.home(home)
    with folder.entered(), pytest.MonkeyPatch.context() as patch:
        patch.setattr("tasks.shards.write_part", counted)
        predictions, report = look()
        assert not list((folder.path / "parts").glob("*/*.npz"))  # nothing is left behind
    return predictions, report, ran


def test_parts_give_what_the_whole_gives(world, case, request, monkeypatch):
    model, target = case
    name = request.node.callspec.id
    one, report, ran = looked(world, f"whole-{name}", model, target)
    assert ran == []
    monkeypatch.setenv("SFDA_SHARDS", "3")
    parts, in_parts, ran = looked(world, f"parts-{name}", model, target)
    if "SFDA_TASK_RUNNER" not in os.environ:  # others run them in processes of their own
        assert len(ran) >= 4  # at least two for each of the two looks
    assert parts.sha256 == one.sha256  # an index of digests of every file
    assert in_parts == report


@pytest.mark.parametrize(
    ("size", "parts", "expected"),
    [
        (600, 1, [(0, 600)]),
        (600, 2, [(0, 512), (512, 600)]),
        (1024, 2, [(0, 512), (512, 1024)]),
        (200, 8, [(0, 200)]),
        (1000, 3, [(0, 512), (512, 1000)]),
    ],
)
def test_parts_begin_where_batches_do(size, parts, expected):
    assert over_split.spans(size, parts, small.SPEC) == expected


@pytest.mark.parametrize("given", ["0", "-1", "many", "1.5"])
def test_a_wrong_number_of_parts_is_refused(monkeypatch, given):
    monkeypatch.setenv("SFDA_SHARDS", given)
    with pytest.raises(BadInput, match=f"SFDA_SHARDS={given}"):
        shard_count()


def test_an_unknown_or_missing_runner_is_named(monkeypatch):
    monkeypatch.setenv("SFDA_TASK_RUNNER", "spark")
    with pytest.raises(BadInput, match="one of threads, ray, dask"):
        make_runner(2)
    for name in ("ray", "dask"):
        monkeypatch.setenv("SFDA_TASK_RUNNER", name)
        monkeypatch.setitem(__import__("sys").modules, f"prefect_{name}", None)
        with pytest.raises(BadInput, match=f"pip install prefect-{name}"):
            make_runner(2)
