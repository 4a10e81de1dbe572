"""The main job for segmentation: the same commands, other data."""

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
import small_seg
from conftest import Home, World, completed_stages, flow_artifacts, sfda
from PIL import Image
from safetensors.torch import save_file

from tasks import tracking

pytestmark = pytest.mark.flow

QUICK = [
    w
    for n, value in {**small_seg.FAST, "epochs": 3}.items()
    for w in ("--set", f"schedule.{n}={value}")
]


@dataclass
class Shop:
    """Data, a home, and a source model trained by command."""

    home: Home
    folder: Path
    source: Path
    target: Path
    trained: Any

    def adapt(self, target: Path, *more: object) -> Any:
        return sfda(
            "adapt", "--source", "models:/shapes@source", "--target", target, "--name", "shapes",
            *more, "--json",
        )  # fmt: skip


@pytest.fixture(scope="module")
def shop(world: World) -> Iterator[Shop]:
    folder = world.folder / "segmentation"
    source = small_seg.write(folder, "source", small_seg.SOURCE, seed=1)
    target = small_seg.write(folder, "target", small_seg.TARGET, seed=2, dull=True)
    home = world.home("segmentation")
    with home.entered():
        trained = sfda(
            "train-source", "--data", source, "--arch", "sfda:tinyunet", "--name", "shapes",
            *QUICK, "--epochs", "12", "--json",
        ).json  # fmt: skip
        yield Shop(home, folder, source, target, trained)


@pytest.fixture(scope="module")
def adapted(shop: Shop) -> Any:
    return shop.adapt(shop.target, "--method", "bn", "--promote").json


def test_a_source_model_is_trained_scored_by_mean_iou_and_gets_a_card(shop):
    assert shop.trained["metrics"]["mean_iou"] > 0.7
    assert {"pixel_accuracy", "mean_dice"} <= set(shop.trained["metrics"])
    run = tracking.client().get_run(shop.trained["mlflow_run_id"])
    assert run.data.params["arch"] == "sfda:tinyunet"


def test_adaptation_helps_and_is_promoted(adapted):
    before, after = (adapted["metrics"][side]["mean_iou"] for side in ("source", "adapted"))
    assert after > before + 0.1
    assert adapted["promoted"] is True


def test_stages_and_artifacts_are_those_of_every_problem(adapted):
    assert completed_stages(adapted["flow_run_id"], 11) == [
        "import of the source model", "pseudo-labelling of the target",
        "profile of the target", "adaptation", "choice",
        "evaluation", "registration", "promotion", "comparison with the champion", "report",
        "model card",
    ]  # fmt: skip
    artifacts = flow_artifacts(adapted["flow_run_id"])
    assert "| disc |" in artifacts["adaptation-report"]
    assert "pixels" in artifacts["pseudo-labels"]
    assert artifacts["results"].startswith("data:image/png;base64,")


def test_the_panel_and_the_picture_are_kept_with_the_run(adapted, tmp_path):
    remaining = {
        f.path for f in tracking.client().list_artifacts(adapted["mlflow_run_id"], "pictures")
    }
    names = {Path(adapted[key]).name for key in ("panel", "picture")}
    assert remaining == {f"pictures/{name}" for name in names}
    panel = np.array(Image.open(adapted["panel"]))
    assert len(np.unique(panel[::4, ::4].reshape(-1, panel.shape[2]), axis=0)) > 50


def test_a_target_without_masks_gives_the_same_weights_and_still_a_panel(shop, adapted):
    with (shop.folder / "target.csv").open() as opened:
        rows = [{k: r[k] for k in ("file", "split")} for r in csv.DictReader(opened)]
    (shop.folder / "bare").symlink_to(shop.folder / "target")
    bare = small_seg.write_manifest(shop.folder, "bare", rows, small_seg.TARGET)
    output = shop.adapt(bare, "--method", "bn").json
    assert output["metrics"] == {"source": None, "adapted": None}
    assert output["promoted"] is False
    assert Path(output["panel"]).is_file()
    assert sha(output) == sha(adapted)


def test_permuted_masks_change_nothing_but_the_evaluation(shop, adapted):
    with (shop.folder / "target.csv").open() as opened:
        rows = list(csv.DictReader(opened))
    masks = [row["mask"] for row in rows]
    for row, mask in zip(rows, masks[5:] + masks[:5], strict=True):
        row["mask"] = mask
    (shop.folder / "permuted").symlink_to(shop.folder / "target")
    permuted = small_seg.write_manifest(shop.folder, "permuted", rows, small_seg.TARGET)
    output = shop.adapt(permuted, "--method", "bn").json
    assert sha(output) == sha(adapted)
    assert output["scores"] == adapted["scores"]
    assert output["metrics"] != adapted["metrics"]


def sha(output: Any) -> str:
    result = tracking.find_version(output["name"], output["version"])
    return tracking.version_tags(result)["sha256"]


@pytest.mark.slow  # 30 s; each has its contract tests
def test_every_segmentation_method_runs_by_command(shop):
    for method in ("source", "alpha_bn", "mean_teacher", "adami", "adaent", "osuda"):
        output = shop.adapt(shop.target, "--method", method, "--epochs", "1").json
        assert 0 < output["metrics"]["adapted"]["mean_iou"] <= 1, method


def test_a_comparison_shows_iou_dice_and_accuracy(shop):
    rows = sfda(
        "compare", "--source", "models:/shapes@source", "--target", shop.target, "--methods",
        "bn,supervised", "--epochs", "1", "--json",
    ).json["rows"]  # fmt: skip
    assert {row["metric"] for row in rows} == {"mean_iou", "mean_dice", "pixel_accuracy"}
    assert {row["method"] for row in rows} == {"source", "bn", "supervised"}


def test_predictions_are_masks_of_the_images_size(shop, adapted, tmp_path):
    output = sfda(
        "predict", "--model", adapted["uri"], "--data", shop.target, "--split", "test", "--out",
        tmp_path, "--json",
    ).json  # fmt: skip
    assert output["count"] == small_seg.TARGET["test"]
    with (tmp_path / "predictions.csv").open() as opened:
        rows = list(csv.DictReader(opened))
    mask = np.array(Image.open(tmp_path / rows[0]["mask"]))
    assert mask.shape == (small_seg.SIZE, small_seg.SIZE)
    assert float(rows[0]["disc"]) == pytest.approx((mask == 1).mean(), abs=1e-5)


LOADS = """
import json, sys
import mlflow, numpy as np
found = mlflow.pyfunc.load_model(sys.argv[1]).predict(np.load(sys.argv[2]))
np.save(sys.argv[3], found["mask"])
print(json.dumps(list(map(str, found["classes"]))))
"""


def test_a_version_answers_through_mlflow_as_predict_does(shop, adapted, tmp_path):
    images, _ = small_seg.shapes(sum(small_seg.TARGET.values()), seed=2, dull=True)
    np.save(tmp_path / "images.npy", images[-small_seg.TARGET["test"] :])
    folder = tracking.fetch(adapted["uri"])
    done = subprocess.run(
        [sys.executable, "-c", LOADS, str(folder), str(tmp_path / "images.npy"),
         str(tmp_path / "masks.npy")],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert json.loads(done.stdout) == list(small_seg.CLASSES)
    masks = np.load(tmp_path / "masks.npy")
    sfda("predict", "--model", adapted["uri"], "--data", shop.target, "--split", "test", "--out",
         tmp_path, "--json")  # fmt: skip
    with (tmp_path / "predictions.csv").open() as opened:
        remaining = [np.array(Image.open(tmp_path / row["mask"])) for row in csv.DictReader(opened)]
    assert (masks == np.stack(remaining)).all()


@pytest.fixture
def broken(shop: Shop, tmp_path: Path) -> Any:
    """A target with one mask changed."""

    def make(mask: np.ndarray | None) -> Path:
        path = small_seg.write(tmp_path, "broken", small_seg.TARGET, seed=2, dull=True)
        folder = tmp_path / "broken" / "masks" / "030.png"  # of the test split
        folder.unlink()
        if mask is not None:
            Image.fromarray(mask).save(folder)
        return path

    return make


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        (None, "030.png"),
        (np.zeros((8, 8), np.uint8), "030.png"),
        (np.full((32, 32), 7, np.uint8), "7"),
        (np.full((32, 32), 255, np.uint8), "030.png"),
        ((np.arange(3072) % 251).astype(np.uint8).reshape(32, 32, 3), "030.png"),
    ],
    ids=["missing", "size", "unknown index", "all ignored", "colours"],
)
def test_a_mask_that_cannot_be_used_is_named_and_nothing_is_registered(shop, broken, mask, said):
    target = broken(mask)
    faults = sfda("check", target, "--json")
    assert faults.code == 2
    assert said in faults.out
    before = [v.version for v in tracking.versions("shapes")]
    refused = shop.adapt(target, "--method", "bn")
    assert refused.code == 2
    assert said in refused.err
    assert "Traceback" not in refused.err
    assert [v.version for v in tracking.versions("shapes")] == before


def test_a_classifiers_method_or_head_is_refused(shop):
    output = shop.adapt(shop.target, "--method", "shot")
    assert output.code == 2
    assert "shot is not for segmentation" in output.err
    output = sfda("train-source", "--data", shop.source, "--arch", "sfda:tinyunet", "--name", "x",
                "--head", "plain")  # fmt: skip
    assert output.code == 2
    assert "head: for classification, multilabel, not for segmentation" in output.err


def test_an_input_too_small_for_the_network_is_refused_before_training(shop):
    words = ("--arch", "smp:pan/resnet18", "--size", "64", "--name", "x")
    output = sfda("train-source", "--data", shop.source, *words)
    assert output.code == 2
    assert "smp:pan/resnet18 cannot take rgb images of 64x64" in output.err


def test_class_ratios_come_from_a_file(shop, tmp_path):
    file = tmp_path / "ratios.yaml"
    file.write_text("ground: 0.75\ndisc: 0.12\nbar: 0.13\n")
    adapt = ("--method", "adami", "--epochs", "1", "--set", f"ratios=@{file}")
    output = shop.adapt(shop.target, *adapt)
    assert output.code == 0
    assert "class ratios from the settings: ground 0.750" in output.err
    file.write_text("ground: 0.75\nliver: 0.12\n")
    refused = shop.adapt(shop.target, *adapt)
    assert refused.code == 2
    assert "no class liver; there are ground, disc, bar" in refused.err
    file.unlink()
    assert "no file" in shop.adapt(shop.target, *adapt).err


def test_a_card_added_later_is_not_overlooked_by_the_cache(shop, tmp_path):
    bare = tmp_path / "bare.safetensors"
    save_file(small_seg.source().state_dict(), bare)
    sfda("import-model", bare, "--arch", "sfda:tinyunet", "--problem", "segmentation", "--classes",
         ",".join(small_seg.CLASSES), "--name", "late")  # fmt: skip

    def prior(version: int) -> str:
        output = sfda("adapt", "--source", f"models:/late/{version}", "--target", shop.target,
                    "--method", "adami", "--epochs", "1", "--name", "later")  # fmt: skip
        assert output.code == 0, output.err
        return next(line for line in output.err.splitlines() if "class ratios" in line)

    assert "estimated from the target" in prior(1)
    card = sfda("card", "--model", "models:/late/1", "--data", shop.source, "--json").json
    assert "from the source card" in prior(int(card["version"]))  # the same weights
