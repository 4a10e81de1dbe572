"""The main job for detection: the same commands, other data; both libraries' detectors."""

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
import small_det
import torch
from asking import exported
from conftest import Home, World, completed_stages, flow_artifacts, sfda
from PIL import Image

from sfda.testing.toys import mmdet_detection as toymm
from tasks import tracking

pytestmark = pytest.mark.flow

QUICK = [w for n, value in small_det.FAST.items() for w in ("--set", f"schedule.{n}={value}")]


@dataclass
class Shop:
    """Data, a home, and a source model trained by command."""

    home: Home
    folder: Path
    target: Path
    trained: Any

    def adapt(self, target: Path, *more: object, source: str = "models:/squares@source") -> Any:
        return sfda("adapt", "--source", source, "--target", target, *more, "--json")


@pytest.fixture(scope="module")
def shop(world: World) -> Iterator[Shop]:
    folder = world.folder / "detection"
    source = small_det.write(folder, "source", small_det.SOURCE, seed=1)
    target = small_det.write(folder, "target", small_det.TARGET, seed=2, dull=True)
    home = world.home("detection")
    with home.entered():
        trained = sfda(
            "train-source", "--data", source, "--arch", "sfda:tinyrcnn", "--name", "squares",
            *QUICK, "--epochs", "8", "--json",
        ).json  # fmt: skip
        yield Shop(home, folder, target, trained)


@pytest.fixture(scope="module")
def adapted(shop: Shop) -> Any:
    return shop.adapt(shop.target, "--epochs", "2", "--name", "squares").json


def test_a_source_model_is_trained_scored_by_ap50_and_gets_a_card(shop):
    assert shop.trained["metrics"]["coco_ap50"] > 0.5
    assert {"coco_ap", "voc07_ap50", "voc_ap50_area"} <= set(shop.trained["metrics"])
    run = tracking.client().get_run(shop.trained["mlflow_run_id"])
    assert run.data.params["arch"] == "sfda:tinyrcnn"


def test_stages_and_artifacts_are_those_of_every_problem(adapted):
    assert completed_stages(adapted["flow_run_id"], 11) == [
        "import of the source model", "pseudo-labelling of the target",
        "profile of the target", "adaptation", "choice",
        "evaluation", "registration", "promotion", "comparison with the champion", "report",
        "model card",
    ]  # fmt: skip
    artifacts = flow_artifacts(adapted["flow_run_id"])
    assert "| red |" in artifacts["adaptation-report"]
    assert "boxes" in artifacts["pseudo-labels"]
    assert artifacts["results"].startswith("data:image/png;base64,")
    assert "complete" in artifacts["source-model"]
    assert adapted["selected_by"] == "entropy"
    assert set(adapted["scores"]) == {"entropy", "boxes"}
    panel = np.array(Image.open(adapted["panel"]))
    assert len(np.unique(panel[::4, ::4].reshape(-1, panel.shape[2]), axis=0)) > 50


def sha(output: Any) -> str:
    result = tracking.find_version(output["name"], output["version"])
    return tracking.version_tags(result)["sha256"]


def test_other_boxes_change_nothing_but_the_evaluation(shop, adapted):
    many = sum(small_det.TARGET.values())
    wrong = [
        {"id": 0, "image_id": i, "category_id": 1 + i % 2, "bbox": [5, 5, 20, 20], "iscrowd": 0}
        for i in range(many)
    ]
    other = small_det.write(
        shop.folder / "other", "target", small_det.TARGET, seed=2, dull=True, annotations=wrong
    )
    output = shop.adapt(other, "--epochs", "2", "--name", "squares").json
    assert sha(output) == sha(adapted)
    assert output["scores"] == adapted["scores"]
    assert output["metrics"] != adapted["metrics"]


def test_a_comparison_shows_both_families_of_metrics(shop):
    rows = sfda(
        "compare", "--source", "models:/squares@source", "--target", shop.target, "--methods",
        "mean_teacher,supervised", "--epochs", "1", "--json",
    ).json["rows"]  # fmt: skip
    assert {row["metric"] for row in rows} == {"coco_ap50", "coco_ap", "voc07_ap50"}
    assert {row["method"] for row in rows} == {"source", "mean_teacher", "supervised"}


LOADS = """
import json, sys
import mlflow, numpy as np
found = mlflow.pyfunc.load_model(sys.argv[1]).predict(np.load(sys.argv[2]))
print(json.dumps([{k: v.tolist() for k, v in one.items()} for one in found]))
"""


def test_predictions_and_a_served_version_say_the_same(shop, adapted, tmp_path):
    output = sfda(
        "predict", "--model", adapted["uri"], "--data", shop.target, "--split", "test", "--out",
        tmp_path, "--json",
    ).json  # fmt: skip
    assert output["count"] == small_det.TARGET["test"]
    with (tmp_path / "predictions.csv").open() as opened:
        rows = list(csv.DictReader(opened))
    document = json.loads((tmp_path / "predictions.json").read_text())
    assert len(document["images"]) == small_det.TARGET["test"]
    assert len(document["annotations"]) == len(rows) > 0
    pictures, _ = small_det.images(sum(small_det.TARGET.values()), seed=2, dull=True)
    np.save(tmp_path / "images.npy", pictures[-small_det.TARGET["test"] :])
    folder = tracking.fetch(adapted["uri"])
    done = subprocess.run(
        [sys.executable, "-c", LOADS, str(folder), str(tmp_path / "images.npy")],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    served = json.loads(done.stdout)
    flat = [
        (label, score, box)
        for one in served
        for label, score, box in zip(one["labels"], one["scores"], one["boxes"], strict=True)
    ]
    assert len(flat) == len(rows)
    for row, (label, score, box) in zip(rows, flat, strict=True):
        assert row["label"] == label
        assert float(row["confidence"]) == pytest.approx(score, abs=1e-3)
        corners = [float(row[key]) for key in ("x1", "y1", "x2", "y2")]
        assert corners == pytest.approx(box, abs=0.1)


def test_an_mmdet_checkpoint_is_imported_adapted_and_served(shop, tmp_path):
    config = tmp_path / "small.py"
    config.write_text(f"model = {toymm.config()!r}\n")
    weights = tmp_path / "epoch_3.pth"
    torch.save({"meta": {"epoch": 3}, "state_dict": toymm.source().state_dict()}, weights)
    result = sfda(
        "import-model", weights, "--problem", "detection", "--arch", f"mmdet:{config}",
        "--classes", "red,blue", "--name", "mm", "--size", "64", "--mean", "0.24,0.24,0.24",
        "--std", "0.3,0.3,0.3", "--json",
    ).json  # fmt: skip
    config.unlink()
    for method in ("lpld", "mean_teacher"):
        output = shop.adapt(
            shop.target, "--method", method, "--epochs", "1", source=result["uri"]
        ).json
        assert 0 <= output["metrics"]["adapted"]["coco_ap50"] <= 1
        assert output["uri"].startswith("models:/mm/")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ("--method", "shot"),
            "shot is not for detection; for that there are bn, fixed_labels, ft, lpld",
        ),
        (("--set", "boxes.emty=skip"), "there is no 'boxes.emty'; did you mean 'empty'"),
        (("--set", "threshold=2"), "threshold = 2 is refused"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(shop, words, said):
    done = shop.adapt(shop.target, *words)
    assert done.code == 2
    assert said in done.err
    assert "Traceback" not in done.err


def test_a_wrong_count_of_classes_and_a_missing_configuration_are_refused(shop, tmp_path):
    weights = tmp_path / "weights.pth"
    torch.save(toymm.source().state_dict(), weights)
    config = tmp_path / "small.py"
    config.write_text(f"model = {toymm.config()!r}\n")
    inputs = ("import-model", weights, "--problem", "detection", "--name", "no", "--size", "64",
             "--mean", "0,0,0", "--std", "1,1,1")  # fmt: skip
    done = sfda(*inputs, "--arch", f"mmdet:{config}", "--classes", "a,b,c")
    assert done.code == 2
    assert "tells 2 classes and the background apart, but 3 classes were named" in done.err
    done = sfda(*inputs, "--arch", "mmdet:gone.py", "--classes", "a,b")
    assert done.code == 2
    assert "no configuration gone.py" in done.err


def test_boxes_are_asked_for_and_learnt_from(shop, tmp_path):
    asked = sfda(
        "query", "--model", "models:/squares@source", "--target", shop.target, "--by", "entropy",
        "--budget", "5", "--out", tmp_path / "ask", "--json",
    ).json  # fmt: skip
    assert asked["count"] == 5
    assert not asked["copied"]
    tasks = json.loads((tmp_path / "ask" / "label_studio.json").read_text())
    kinds = {r["type"] for t in tasks for r in t["predictions"][0]["result"]}
    assert kinds == {"rectanglelabels"}
    out = tmp_path / "answered.yaml"
    taken = sfda(
        "answer", tmp_path / "ask", exported(tmp_path / "ask"), "--target", shop.target, "--out",
        out, "--json",
    ).json  # fmt: skip
    assert taken["answered"] == 5
    for method, more, losses in (
        ("lpld", ("--epochs", "1"), {"loss/labelled_class", "loss/labelled_rpn_box"}),
        ("ft", ("--epochs", "1", "--set", "steps=2"), {"loss/class", "loss/box"}),
    ):
        output = shop.adapt(out, "--method", method, "--name", "told", *more).json
        run = tracking.client().get_run(output["mlflow_run_id"])
        assert losses <= set(run.data.metrics)


def test_rounds_of_boxes_are_answered_from_held_back_ones(shop):
    output = sfda(
        "rounds", "--source", "models:/squares@source", "--target", shop.target, "--queries",
        "coreset", "--methods", "ft", "--budgets", "3,6", "--set", "ft.steps=2", "--set",
        "ft.schedule.epochs=1", "--json",
    ).json  # fmt: skip
    assert [row["labels"] for row in output["rows"]] == [3, 6]
    assert all(row["metrics"]["coco_ap50"] > 0 for row in output["rows"])
