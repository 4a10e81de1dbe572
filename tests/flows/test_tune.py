"""A search: trials within a budget, all epochs and the source in one ranking, the best judged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import small
from conftest import World, sfda

from flows.tune import run_tune
from flows.tune_job import make_job
from sfda.decision.evidence import SOURCE_NAME
from sfda.methods.aad import AaDConfig
from sfda.settings import RunSettings
from tasks.tracking.models import locate

pytestmark = pytest.mark.flow

GRID = {"shot": {"schedule.lr": [small.FAST["lr"]], "schedule.batch_size": [32]}}


@pytest.fixture(scope="module")
def home(world: World):
    made = world.home("tune")
    with made.entered():
        yield made


@pytest.fixture(scope="module")
def target(home: Any) -> Path:
    inputs = small.target_arrays()
    own = inputs["split"] == 0
    bare = {"x": inputs["x"][own], "split": inputs["split"][own]}
    return small.write(home.path, "bare", bare, {"adapt": int(own.sum())}, classes=None)


@pytest.fixture(scope="module")
def tuned(world: World, home: Any, target: Path) -> Any:
    return sfda(
        "tune", "--source", world.bundle, "--target", target, "--methods", "shot,bn",
        "--grid", _grid(home.path), "--epochs", "2", "--name", "toy", "--budget", "10m", "--json",
        "--decision", _lenient(home.path),
    ).json  # fmt: skip


def _lenient(folder: Path) -> Path:
    """A policy by which the source, which answers one class of three, has not collapsed."""
    file = folder / "policy.yaml"
    file.write_text(json.dumps({"vetoes": {"effective_classes": 0.1}}))
    return file


def _grid(folder: Path) -> Path:
    file = folder / "grid.yaml"
    file.write_text(json.dumps(GRID))
    return file


def test_all_that_was_tried_and_the_source_are_ranked_without_labels(tuned: Any) -> None:
    names = [one["name"] for one in tuned["ranking"]["candidates"]]
    assert SOURCE_NAME in names
    assert {"shot, epoch 2", "bn, epoch 1", "bn, epoch 1, half the way"} <= set(names)
    assert any(name.startswith("shot (schedule.") for name in names)
    ranked = [one["mean_rank"] for one in tuned["ranking"]["candidates"] if one["mean_rank"]]
    assert ranked == sorted(ranked)
    assert tuned["left_out"] == []
    assert f"| {names[0]} |" in tuned["table"]


def test_the_search_has_a_page_that_tells_the_verdict_first(tuned: Any, target: Path) -> None:
    page = Path(tuned["report"]).read_text()
    assert Path(tuned["report"]).parent.name.startswith("tune-bare-tune-")
    assert page.index(tuned["verdict"].partition(":")[0]) < page.index("<h2>Ranking</h2>")
    for name in [one["name"] for one in tuned["ranking"]["candidates"]][:3]:
        assert name in page
    assert f"--target {target}" in page
    assert "schedule.lr" in page.partition("grid.yaml is")[2]  # what the command needs
    assert (Path(tuned["report"]).parent / "table.md").read_text().startswith("| candidate |")


def test_the_best_is_registered_and_judged_and_the_rest_deleted(tuned: Any, home: Any) -> None:
    best = tuned["ranking"]["candidates"][0]["name"]
    assert best != SOURCE_NAME
    assert tuned["version"]["name"] == "toy"
    assert locate(tuned["version"]["uri"]).is_dir()
    assert tuned["verdict"]
    assert tuned["next"]
    tried = [*(home.path / "runs").glob("*/epoch-*"), *(home.path / "rungs").glob("*")]
    assert len([folder for folder in tried if folder.is_dir()]) <= 1


def test_a_second_search_comes_through_deleted_weights_and_keeps_a_source_that_collapsed(
    tuned: Any, world: World, target: Path, prefect_api: None
) -> None:
    again = run_tune(
        str(world.bundle), str(target), methods=["bn"], name="toy", budget="10m",
        adaptation=RunSettings(epochs=2),
    )  # fmt: skip
    assert {one.name for one in again.ranking.candidates} >= {SOURCE_NAME, "bn, epoch 1"}
    assert again.version is None
    assert "the source answers too few classes" in again.table
    assert again.verdict.startswith("keep the source")


def test_without_time_one_trial_is_made_and_the_others_are_named(
    world: World, home: Any, target: Path, prefect_api: None
) -> None:
    result = run_tune(
        str(world.bundle), str(target), methods=["bn", "shot"], name="toy", budget="0.001s",
        adaptation=RunSettings(epochs=3),
    )  # fmt: skip
    assert len(result.left_out) >= 2
    assert "no time was left for: shot" in result.table


def test_a_value_of_the_grid_that_is_the_default_is_no_second_trial(
    world: World, home: Any, target: Path
) -> None:
    grid = {"aad": {"schedule.lr": [AaDConfig().schedule.lr, 0.5]}}
    job = make_job(str(world.bundle), str(target), ["aad"], grid, 0, "toy", RunSettings())
    assert [one.trial.name for one in job.planned] == ["aad", "aad (schedule.lr=0.5)"]


def test_what_cannot_be_tried_is_refused_before_anything_runs(
    world: World, home: Any, target: Path, tmp_path: Path
) -> None:
    for words, says in (
        (["--methods", "lpld"], "lpld is not for classification"),
        (["--budget", "soon"], "'soon' is no time"),
        (["--grid", tmp_path / "absent.yaml"], "a grid is METHOD"),
    ):
        done = sfda("tune", "--source", world.bundle, "--target", target, *words)
        assert done.code == 2
        assert says in done.err
