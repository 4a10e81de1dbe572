"""Profiles of targets by the command line, and runs whose method follows them."""

from __future__ import annotations

import mlflow
import pytest
import small
from conftest import flow_artifacts, sfda  # of this folder

pytestmark = pytest.mark.flow
SIZES = {"adapt": 160, "test": 30}


@pytest.fixture(scope="module")
def home(world):
    home = world.home("auto")
    weights = world.bundle / "weights.safetensors"
    with home.entered():
        names = ",".join(small.CLASSES)
        output = sfda("import-model", weights, "--arch", "sfda:tiny", "--name", "toy",
                    "--classes", names)  # fmt: skip
        assert output.code == 0, output.err
        yield world.folder


def words(target):
    return "--source", "models:/toy/1", "--target", target


def data_of(result):
    return mlflow.MlflowClient().get_run(result["mlflow_run_id"]).data


def test_few_images_are_named_and_auto_leaves_the_model_as_it_is(home):
    target = small.write(home, "few", small.target_arrays(), small.TARGET)
    profile = sfda("profile", *words(target), "--json").json
    assert profile["recommended"] == "ask for labels"
    assert profile["images"] == small.TARGET["adapt"]
    told = sfda("profile", *words(target)).out
    assert "48 different images to learn from; shot needs 64 at least" in told
    output = sfda(
        "adapt", *words(target), "--method", "auto", "--set", "schedule.lr=0.02", "--json"
    )
    assert "the profile says ask for labels" in output.err
    result = output.json
    assert result["profile"]["recommendation"] == profile["recommendation"]
    assert result["kind"] == "keep"
    run = data_of(result)
    assert run.params["method"] == "source"
    assert run.tags["profile"] == "ask for labels"
    assert "48 different images" in run.tags["profile.reasons"]
    page = flow_artifacts(result["flow_run_id"])["target-profile"]
    assert "| size | against | 48 | 64 |" in page


def test_auto_rejects_where_the_target_declares_unknown_classes(home):
    arrays = small.arrays(SIZES, seed=2, dull=True)
    target = small.write(home, "open", arrays, SIZES, classes=["bar", "ring", "cross"])
    shares = ("--prior", "bar=1", "--prior", "cross=1", "--prior", "post=1")
    result = sfda("adapt", *words(target), "--method", "auto", *shares, "--epochs", "1",
                  "--json").json  # fmt: skip
    assert result["profile"]["recommendation"]["method"] == "glc"
    assert data_of(result).params["method"] == "glc"


def test_a_prior_of_no_class_of_the_model_is_refused(home):
    target = small.write(home, "named", small.target_arrays(), small.TARGET)
    output = sfda("profile", *words(target), "--prior", "ring=1")
    assert output.code == 2
    assert "the prior names ring" in output.err
