"""The command line: one JSON object with its keys, presets that fit, methods with papers."""

from __future__ import annotations

import csv
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import small
import yaml
from conftest import Home, World, sfda
from PIL import Image
from safetensors.torch import save_file

from flows import presets
from flows.cli.methods_table import methods_text
from sfda import plugins
from sfda.errors import BadInput
from tasks import tracking
from tasks.tracking.models import locate


@pytest.fixture(scope="module")
def home(world: World) -> Iterator[Home]:
    made = world.home("command-line")
    with made.entered():
        yield made


@pytest.fixture(scope="module")
def weights(world: World) -> Path:
    path = world.folder / "weights.safetensors"
    state = {name: tensor.contiguous() for name, tensor in small.source().state_dict().items()}
    save_file(state, path)
    return path


@pytest.fixture(scope="module")
def model(home: Home, weights: Path) -> dict[str, str]:
    return sfda(
        "import-model", weights, "--arch", "sfda:tiny", "--problem", "classification", "--classes",
        ",".join(small.CLASSES), "--name", "imported", "--json",
    ).json  # fmt: skip


@pytest.mark.flow
def test_an_imported_model_is_source_and_first_champion_and_lacks_a_card(world, model):
    assert {
        "name": "imported",
        "version": "1",
        "uri": "models:/imported/1",
    }.items() <= model.items()
    assert model["sha256"] == world.model.sha256
    assert model["taken"].endswith("tensors taken")
    assert model["preprocessing"] == (
        "16x16, gray, divided by 255, mean 0.5, std 0.5 (as is usual for sfda:tiny)"
    )
    for alias in ("source", "champion"):
        assert tracking.canonical(f"models:/imported@{alias}") == "models:/imported/1"
    run = tracking.client().get_run(model["mlflow_run_id"])
    assert run.data.params["arch"] == "sfda:tiny"


@pytest.mark.flow
def test_class_names_may_come_from_a_file(world, weights, home):
    names = world.folder / "names.txt"
    names.write_text("\n".join(small.CLASSES) + "\n\n")
    output = sfda("import-model", weights, "--arch", "sfda:tiny", "--classes-file", names, "--name",
                "from-file", "--json").json  # fmt: skip
    assert output["sha256"] == world.model.sha256


@pytest.mark.flow
def test_a_card_is_made_at_the_source_site_for_a_model_without_one(world, model):
    assert not (locate(model["uri"]) / "card.safetensors").exists()
    output = sfda("card", "--model", "models:/imported/1", "--data", world.source, "--json").json
    assert {"name", "version", "uri", "metrics"} <= set(output)
    assert (output["name"], output["uri"]) == ("imported", "models:/imported/2")
    assert output["metrics"]["overall_accuracy"] == 1.0
    assert (locate(output["uri"]) / "card.safetensors").is_file()
    assert tracking.canonical("models:/imported@source") == "models:/imported/2"
    assert tracking.canonical("models:/imported@champion") == "models:/imported/1"


@pytest.mark.flow
def test_evaluate_tells_every_metric_by_its_full_name(world, model):
    output = sfda("evaluate", "--model", model["uri"], "--data", world.target, "--json").json
    accuracy = small.accuracy(small.source(), small.target_arrays(), 1)
    assert output["metrics"]["overall_accuracy"] == pytest.approx(accuracy)
    assert {"macro_accuracy", "expected_calibration_error", "log_loss"} <= set(output["metrics"])
    text = sfda("evaluate", "--model", model["uri"], "--data", world.target)
    assert f"{accuracy:.4f}" in text.out
    assert "post" in text.out


@pytest.mark.flow
def test_check_tells_that_a_good_manifest_is_good(world):
    output = sfda("check", world.target, "--json").json
    assert output == {"ok": True, "faults": [], "count": 78, "classes": list(small.CLASSES),
                    "notes": []}  # fmt: skip


@pytest.mark.flow
def test_a_folder_is_a_target_without_a_manifest(world, model, tmp_path):
    inputs = small.target_arrays()
    for i, image in enumerate(inputs["x"][:9]):
        (tmp_path / "images").mkdir(exist_ok=True)
        Image.fromarray(image).save(tmp_path / "images" / f"{i}.png")
    output = sfda("predict", "--model", model["uri"], "--data", tmp_path / "images", "--out",
                tmp_path / "out", "--json").json  # fmt: skip
    assert output["count"] == 9
    with open(output["file"], newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows] == [f"{i}.png" for i in range(9)]
    assert {row["label"] for row in rows} <= set(small.CLASSES)
    assert all(1 / 3 <= float(row["confidence"]) <= 1 for row in rows)


@pytest.mark.flow
def test_a_manifest_is_made_with_the_classes_of_a_model(world, model, tmp_path):
    for name, image in zip(small.CLASSES * 4, small.target_arrays()["x"], strict=False):
        folder = tmp_path / "images" / name
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.asarray(image)).save(folder / f"{len(list(folder.iterdir()))}.png")
    output = sfda("manifest", tmp_path / "images", "--model", model["uri"], "--out",
                tmp_path / "m.yaml", "--json").json  # fmt: skip
    assert output["classes"] == list(small.CLASSES)
    assert output["splits"] == {"adapt": 9, "train": 9, "test": 3, "val": 3}
    assert sfda("check", tmp_path / "m.yaml", "--json").json["ok"]


@pytest.mark.flow
def test_a_preset_gives_parameters_and_what_is_said_beside_it_wins(world, model, home):
    file = world.folder / "mine.yaml"
    file.write_text(yaml.safe_dump({
        "method": "aad", "epochs": 2, "seed": 5,
        "settings": {"neighbours": 3, "schedule": small.FAST},
    }))  # fmt: skip
    output = sfda("adapt", "--source", model["uri"], "--target", world.target, "--preset", file,
                "--epochs", 1, "--set", "schedule.lr=1e-3", "--json").json  # fmt: skip
    params = tracking.client().get_run(output["mlflow_run_id"]).data.params
    expected = {"method": "aad", "neighbours": "3", "schedule.epochs": "1", "seed": "5"}
    assert expected.items() <= params.items()
    assert float(params["schedule.lr"]) == 1e-3
    assert params["schedule.batch_size"] == "8"
    assert output["selected_epoch"] == 1
    file.write_text("method: aad\nepoch: 3\n")
    ended = sfda("adapt", "--source", model["uri"], "--target", world.target, "--preset", file)
    assert ended.code == 2
    assert re.search(r"mine\.yaml names epoch; the flow takes .*epochs", ended.err)


@pytest.mark.parametrize("text", ["[1, 2]", "a: [", "", "\x00"])
def test_a_preset_that_is_none_is_refused(tmp_path, text):
    (tmp_path / "p.yaml").write_text(text)
    with pytest.raises(BadInput, match=r"p\.yaml (is not YAML|holds no parameters)"):
        presets.read(str(tmp_path / "p.yaml"))


def test_a_file_of_the_current_folder_does_not_take_the_name_of_a_preset(tmp_path, monkeypatch):
    shipped = presets.read("digits-shot")
    (tmp_path / "digits-shot").write_text("promote: true\n")
    monkeypatch.chdir(tmp_path)
    assert presets.read("digits-shot") == shipped
    assert presets.read("./digits-shot") == {"promote": True}


def test_methods_lists_every_method_with_its_paper():
    output = sfda("methods", "--json").json["methods"]
    assert [row["name"] for row in output] == plugins.names("methods")
    assert {"shot", "aad", "mean_teacher"} <= {row["name"] for row in output}
    for row in output:
        assert re.fullmatch(r"arXiv:\d{4}\.\d{4,5}", row["paper"]), row
        assert row["problems"]
        assert row["setting"]
    text = sfda("methods")
    assert text.code == 0
    assert all(row["paper"] in text.out for row in output)


@pytest.mark.parametrize("problems", [["pose"], ["classification", "pose", "segmentation"]])
def test_columns_of_the_methods_are_as_wide_as_what_stands_in_them(problems):
    bn = {"name": "bn", "paper": "arXiv:1603.04779", "setting": "any", "says": "Statistics."}
    long = {"name": "x" * 30, "paper": "", "setting": "a few labels", "says": "Nothing."}
    text = methods_text([{**bn, "problems": problems}])
    assert text == f"bn  arXiv:1603.04779  any  {', '.join(problems)}\n    Statistics."
    assert methods_text([]) == ""
    first, _, second, _ = methods_text(
        [{**bn, "problems": problems}, {**long, "problems": ["detection"]}]
    ).splitlines()
    assert first.index("any") == second.index("a few labels")
    assert first.index(problems[0]) == second.index("detection")


def test_methods_need_no_home(tmp_path, monkeypatch):
    monkeypatch.setenv("SFDA_HOME", str(tmp_path / "home"))
    assert sfda("methods").code == 0
    assert not (tmp_path / "home").exists()


def test_help_loads_nothing_heavy_and_makes_nothing(tmp_path):
    script = (
        "import sys\n"
        "from flows.cli.app import app\n"
        "try:\n"
        "    app(sys.argv[1:])\n"
        "finally:\n"
        "    heavy = {'torch', 'mlflow', 'prefect', 'albumentations', 'timm'} & set(sys.modules)\n"
        "    print(sorted(heavy), file=sys.stderr)\n"
    )
    help_said = subprocess.run(
        [sys.executable, "-c", script, "adapt", "--help"],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert help_said.stderr.strip() == "[]"
    assert "--select-by" in help_said.stdout
    assert not (tmp_path / ".sfda").exists()
