"""The main job for pose: the same commands, other data, and a prior that travels in the model."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_pose
import torch
from asking import exported
from conftest import Home, World, completed_stages, flow_artifacts, sfda
from PIL import Image

from sfda.demo.figures import JOINTS, PAIRS
from sfda.problems.pose import network as pose
from tasks import tracking
from tasks.tracking.models import open_spec

pytestmark = pytest.mark.flow


@dataclass
class Shop:
    """Data, a home, and a source model trained by command, with its prior."""

    home: Home
    folder: Path
    source: Path
    target: Path
    trained: Any
    prior: Any

    def adapt(self, target: Path, *more: object, source: str = "models:/figures@source") -> Any:
        return sfda(
            "adapt", "--source", source, "--target", target, "--set", "schedule.batch_size=8",
            *more, "--json",
        )  # fmt: skip


@pytest.fixture(scope="module")
def shop(world: World) -> Iterator[Shop]:
    folder = world.folder / "pose"
    source = small_pose.write(folder, "source", small_pose.SOURCE)
    target = small_pose.write(folder, "target", small_pose.TARGET, night=True)
    home = world.home("pose")
    with home.entered():
        trained = sfda(
            "train-source", "--data", source, "--arch", "pose:tiny", "--name", "figures",
            "--epochs", "3", "--set", "schedule.batch_size=8", "--json",
        ).json  # fmt: skip
        few = ("--set", "steps=[30,30,30]", "--set", "hidden=[16]", "--set", "batch_size=64")
        (folder / "source.poses.json").write_bytes((folder / "source.json").read_bytes())
        prior = sfda(
            "train-prior", "--model", trained["uri"], "--poses", folder / "source.poses.json", *few,
            "--json",
        )  # fmt: skip
        yield Shop(home, folder, source, target, trained, prior)


@pytest.fixture(scope="module")
def adapted(shop: Shop) -> Any:
    return shop.adapt(shop.target, "--epochs", "2", "--set", "prior_from=1").json


def test_a_source_model_is_trained_and_scored_by_pck(shop):
    assert {"pck_at_0.05", "pck_at_0.1", "pck_at_0.2", "oks_ap"} <= set(shop.trained["metrics"])
    run = tracking.client().get_run(shop.trained["mlflow_run_id"])
    assert run.data.params["arch"] == "pose:tiny"


def test_a_prior_is_trained_from_joints_alone_and_is_in_the_model(shop):
    output = shop.prior.json
    assert output["uri"] == "models:/figures/2"
    assert "the prior is weak" in shop.prior.err  # 90 steps are too few, and that is said
    version = tracking.find_version("figures", "2")
    assert tracking.version_tags(version)["prior_sha256"] == output["prior_sha256"]
    spec = json.loads(next(tracking.fetch(output["uri"]).rglob("spec.json")).read_text())
    assert spec["prior_hidden"] == [16]


def test_the_padding_of_a_model_travels_and_another_is_told(shop, tmp_path):
    spec = open_spec(shop.trained["uri"])
    assert spec.padding == 1.1
    marked = shop.folder / "marked.json"
    marked.write_text((shop.folder / "target.json").read_text())
    words = ("manifest", shop.folder / "target", "--problem", "pose", "--annotations", marked)
    model = ("--model", shop.trained["uri"])
    made = sfda(*words, *model, "--out", shop.folder / "own.yaml")
    assert "padding of crops: 1.1" in made.out
    assert f"left and right: {PAIRS[0][0]} / {PAIRS[0][1]}" in made.out
    test = ("--split", "test")
    assert "padding" not in sfda("evaluate", *model, *test, "--data", shop.folder / "own.yaml").err
    for command in (
        ("evaluate", *model, *test, "--data"),
        ("predict", *model, *test, "--out", tmp_path / "out", "--data"),
        ("adapt", "--source", shop.trained["uri"], "--method", "source", "--target"),
    ):
        usual = shop.folder / f"{command[0]}.yaml"
        sfda(*words, "--out", usual)
        done = sfda(*command, usual)
        assert done.code == 0, done.err
        assert "at padding 1.25, and the model was trained at 1.1" in done.err
        assert f"write `padding: 1.1` into {usual.name}" in done.err


def test_post_without_a_prior_runs_only_if_told_to(shop):
    done = shop.adapt(shop.target, "--epochs", "1", source="models:/figures/1")
    assert done.code == 2
    assert "post needs the pose prior" in done.err
    assert "sfda train-prior" in done.err
    output = shop.adapt(
        shop.target, "--epochs", "1", "--set", "without_prior=true", source="models:/figures/1"
    ).json
    assert "plausible" not in output["scores"]


def test_stages_artifacts_and_scores(shop, adapted):
    assert completed_stages(adapted["flow_run_id"], 8)[:5] == [
        "import of the source model", "pseudo-labelling of the target",
        "profile of the target", "adaptation", "choice",
    ]  # fmt: skip
    artifacts = flow_artifacts(adapted["flow_run_id"])
    assert "| left_hand |" in artifacts["adaptation-report"]
    assert "| group arms |" in artifacts["adaptation-report"]
    assert "distance between neck and hip" in artifacts["adaptation-report"]
    assert "sure joints" in artifacts["pseudo-labels"]
    assert set(adapted["scores"]) == {"agreement", "entropy", "plausible"}
    assert adapted["selected_by"] == "agreement"
    for key in ("panel", "picture"):
        drawn = np.array(Image.open(adapted[key]))
        assert len(np.unique(drawn[::4, ::4].reshape(-1, drawn.shape[2]), axis=0)) > 50


def sha(output: Any) -> str:
    result = tracking.find_version(output["name"], output["version"])
    return tracking.version_tags(result)["sha256"]


def test_other_joints_change_nothing_but_the_evaluation(shop, adapted):
    many = sum(small_pose.TARGET.values())
    wrong = [
        {
            "id": i, "image_id": i, "category_id": 1, "bbox": [2, 2, 60, 60], "area": 900,
            "keypoints": [30.0, 30.0 + i % 9, 2] * len(JOINTS),
        }
        for i in range(many)
    ]  # fmt: skip
    for entry in wrong:  # neck and hip apart, or there is no unit
        entry["keypoints"][3 * JOINTS.index("hip") + 1] = 50.0
    other = small_pose.write(
        shop.folder / "other", "target", small_pose.TARGET, night=True, annotations=wrong
    )
    output = shop.adapt(other, "--epochs", "2", "--set", "prior_from=1").json
    assert sha(output) == sha(adapted)
    assert output["scores"] == adapted["scores"]
    assert output["metrics"] != adapted["metrics"]


def test_every_method_runs_and_a_comparison_shows_pck_and_oks(shop):
    rows = sfda(
        "compare", "--source", "models:/figures/2", "--target", shop.target, "--methods",
        "bn,mean_teacher,supervised", "--epochs", "1", "--set", "schedule.batch_size=8", "--json",
    ).json["rows"]  # fmt: skip
    assert {row["metric"] for row in rows} == {"pck_at_0.1", "pck_at_0.2", "oks_ap"}


LOADS = """
import json, sys
import mlflow, numpy as np
found = mlflow.pyfunc.load_model(sys.argv[1]).predict(np.load(sys.argv[2]))
print(json.dumps({k: v.tolist() for k, v in found.items()}))
"""


def test_predictions_are_in_pixels_of_the_images_and_serving_agrees(shop, adapted, tmp_path):
    output = sfda(
        "predict", "--model", adapted["uri"], "--data", shop.target, "--split", "test", "--out",
        tmp_path, "--json",
    ).json  # fmt: skip
    assert output["count"] == small_pose.TARGET["test"]
    with (tmp_path / "predictions.csv").open() as opened:
        rows = list(csv.DictReader(opened))
    # crops as the manifest's boxes and padding make them: 60 pixels, 1.1 times, around the middle
    crops = []
    for row in rows:
        image = Image.open(shop.folder / "target" / row["file"].partition("@")[0])
        crops.append(np.pad(np.array(image), ((1, 1), (1, 1), (0, 0)))[:66, :66])
    np.save(tmp_path / "crops.npy", np.stack(crops))
    folder = tracking.fetch(adapted["uri"])
    done = subprocess.run(
        [sys.executable, "-c", LOADS, str(folder), str(tmp_path / "crops.npy")],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    served = json.loads(done.stdout)
    assert served["joints"] == list(JOINTS)
    for row, joints in zip(rows, served["keypoints"], strict=True):
        for name, (x, y) in zip(JOINTS, joints, strict=True):
            assert float(row[f"{name}:x"]) == pytest.approx(x - 1, abs=0.6)
            assert float(row[f"{name}:y"]) == pytest.approx(y - 1, abs=0.6)


def test_a_published_checkpoint_is_imported_by_its_own_names(shop, tmp_path):
    network = pose.build("pose:resnet18", len(JOINTS))
    theirs = {"backbone": "backbone", "neck": "upsampling", "head": "head"}
    names = {f"{ours}.": f"module.{part}." for ours, part in theirs.items()}
    weights = {
        next(new + k.removeprefix(old) for old, new in names.items() if k.startswith(old)): v
        for k, v in network.state_dict().items()
    }
    torch.save(weights, tmp_path / "pose.pth")
    inputs = ("import-model", tmp_path / "pose.pth", "--problem", "pose", "--arch", "pose:resnet18",
             "--name", "published", "--size", "64")  # fmt: skip
    bones = tmp_path / "bones.yaml"
    bones.write_text(f"edges: [[{JOINTS[0]}, {JOINTS[1]}]]\n")
    result = sfda(*inputs, "--classes", ",".join(JOINTS), "--skeleton", bones, "--json")
    assert result.json["uri"] == "models:/published/1"
    spec = open_spec("models:/published/1")
    assert spec.skeleton is not None
    assert spec.skeleton.edges == ((JOINTS[0], JOINTS[1]),)
    assert sorted(spec.skeleton.pairs) == sorted(PAIRS)
    assert result.json["pairs"] == [list(pair) for pair in spec.skeleton.pairs]
    done = sfda(*inputs, "--classes", "a,b")
    assert done.code == 2
    assert "the checkpoint has 11 heatmaps, but 2 joints were named" in done.err


def test_joints_are_asked_for_and_learnt_from(shop, tmp_path):
    asked = sfda(
        "query", "--model", "models:/figures@source", "--target", shop.target, "--by", "margin",
        "--budget", "5", "--out", tmp_path / "ask", "--copy", "--json",
    ).json  # fmt: skip
    assert asked["copied"]
    request = json.loads((tmp_path / "ask" / "request.json").read_text())
    assert len(request["edges"]) == len(JOINTS) - 1
    for expected in request["wanted"]:
        with Image.open(tmp_path / "ask" / expected["file"]) as picture:
            assert picture.size == (expected["width"], expected["height"])
    out = tmp_path / "answered.yaml"
    sfda(
        "answer", tmp_path / "ask", exported(tmp_path / "ask"), "--target", shop.target, "--out",
        out, "--json",
    )  # fmt: skip
    for method, loss, more in (
        ("mean_teacher", "loss/labelled_heatmap", ()),
        ("lp_ft", "loss/heatmap", ("--set", "steps=2", "--set", "head_epochs=1")),
    ):
        words = ("--method", method, "--name", "told", "--epochs", "2", *more)
        output = shop.adapt(out, *words).json
        assert loss in tracking.client().get_run(output["mlflow_run_id"]).data.metrics


def test_rounds_of_joints_are_answered_from_held_back_ones(shop):
    output = sfda(
        "rounds", "--source", "models:/figures@source", "--target", shop.target, "--queries",
        "entropy", "--methods", "ft", "--budgets", "4,8", "--set", "ft.steps=2", "--set",
        "ft.schedule.epochs=1", "--json",
    ).json  # fmt: skip
    assert [row["labels"] for row in output["rows"]] == [4, 8]
