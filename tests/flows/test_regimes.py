"""Targets with classes that the model lacks, or without some that it has, through all stages."""

from __future__ import annotations

import csv

import pytest
import small
from conftest import flow_artifacts, sfda  # of this folder

from sfda.weights.bundle import read_spec
from tasks.tracking.models import locate

pytestmark = pytest.mark.flow
FAST = ("--epochs", "2", "--set", "schedule.lr=0.03", "--set", "schedule.batch_size=8")


@pytest.fixture(scope="module")
def shop(world):
    """A home with the toy model registered, and an open target: its posts are called rings."""
    home = world.home("regimes")
    target = small.write(
        world.folder, "open", small.target_arrays(), small.TARGET, classes=["bar", "ring", "cross"]
    )
    weights = world.bundle / "weights.safetensors"
    with home.entered():
        names = ",".join(small.CLASSES)
        output = sfda("import-model", weights, "--arch", "sfda:tiny", "--name", "toy",
                    "--classes", names)  # fmt: skip
        assert output.code == 0, output.err
        yield target


def adapt(target, *words):
    return sfda("adapt", "--source", "models:/toy/1", "--target", target, *FAST, *words, "--json")


def test_an_open_target_is_told_measured_and_answered(shop, tmp_path):
    output = adapt(shop, "--method", "shot")
    assert "classes that the model lacks, counted as unknown: ring" in output.err
    result = output.json
    assert result["selected_by"] == "last"
    for side in ("source", "adapted"):
        metrics = result["metrics"][side]
        assert {"h_score", "hos", "os", "os_star", "unk", "rejected_share"} <= metrics.keys()
        star, unk = metrics["os_star"], metrics["unk"]
        assert metrics["h_score"] == pytest.approx(2 * star * unk / (star + unk or 1))
    report = flow_artifacts(result["flow_run_id"])["adaptation-report"]
    assert "| unknown | 10 |" in report
    assert 'answer "unknown" where their uncertainty is above' in report
    assert "ring" in flow_artifacts(result["flow_run_id"])["pseudo-labels"]
    done = sfda("predict", "--model", result["uri"], "--data", shop, "--split", "test",
                "--out", tmp_path, "--json").json  # fmt: skip
    with open(done["file"], newline="") as file:
        labels = [row["label"] for row in csv.DictReader(file)]
    share = labels.count("unknown") / len(labels)
    assert share == pytest.approx(result["metrics"]["adapted"]["rejected_share"])


def test_a_fixed_threshold_can_be_given_to_any_method(shop):
    result = adapt(shop, "--method", "mean_teacher", "--set", "reject=0.6").json
    assert read_spec(locate(result["uri"])).reject == 0.6


def test_a_threshold_that_rejects_nearly_everything_keeps_the_source(shop):
    result = adapt(shop, "--method", "mean_teacher", "--set", "reject=0.0").json
    assert result["selected_epoch"] == 0
    assert "of the answers are 'unknown', above 90%" in result["cut"]
    assert read_spec(locate(result["uri"])).reject is None


def test_without_rejection_no_sample_is_called_unknown(shop):
    result = adapt(shop, "--method", "aad").json
    assert result["metrics"]["adapted"]["unk"] == result["metrics"]["adapted"]["h_score"] == 0.0


def test_a_comparison_on_an_open_target_has_the_source_at_its_best_threshold(shop):
    words = ("--source", "models:/toy/1", "--target", shop, *FAST, "--json")
    result = sfda("compare", *words, "--methods", "shot,bn,source").json
    rows = {(row["method"], row["metric"]): row for row in result["rows"]}
    names = {method for method, _ in rows}
    floor = "source, rejects above 0.5"
    (oracle,) = (name for name in names if "(oracle)" in name)
    assert names == {floor, oracle, "shot", "bn", "gda"}
    assert {metric for _, metric in rows} == {"h_score", "os_star", "unk", "os"}
    assert rows[oracle, "h_score"]["selected"] >= rows[floor, "h_score"]["selected"]
    assert rows["shot", "h_score"]["source"] == rows[floor, "h_score"]["selected"]
    assert "unknown 10" in result["table"]


def test_the_bound_has_no_meaning_where_there_are_unknown_samples(shop):
    words = ("--source", "models:/toy/1", "--target", shop, *FAST, "--json")
    output = sfda("compare", *words, "--methods", "supervised")
    assert output.code == 2
    assert "samples of classes that the model lacks" in output.err


def test_a_partial_target_keeps_the_closed_metrics(shop, world):
    inputs = small.target_arrays()
    remaining = inputs["y"] != 1
    part = {name: values[remaining] for name, values in inputs.items()}
    sizes = {name: int((part["split"] == i).sum()) for i, name in enumerate(small.TARGET)}
    part["y"] = (part["y"] == 2).astype(int)
    target = small.write(world.folder, "partial", part, sizes, classes=["bar", "cross"])
    output = adapt(target, "--method", "shot")
    assert "classes of the model that the target lacks: post" in output.err
    metrics = output.json["metrics"]["adapted"]
    assert "h_score" not in metrics
    assert 0 <= metrics["macro_accuracy"] <= 1
