"""The main job end to end: trained, adapted, held or promoted, compared, and all on record."""

from __future__ import annotations

import base64
import csv
import html
import json
import math
import os
import re
import shlex
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small
from conftest import Home, Stages, World, completed_stages, flow_artifacts, flow_stages, sfda

from tasks import tracking

pytestmark = pytest.mark.flow

STAGES = [
    "import of the source model",
    "pseudo-labelling of the target",
    "profile of the target",
    "adaptation",
    "choice",
    "evaluation",
    "registration",
    "promotion",
    "comparison with the champion",
    "report",
    "model card",
]
EPOCHS = 4
CACHED = {
    "pseudo-labelling of the target",
    "adaptation",
    "evaluation",
    "comparison with the champion",
}
METRICS = {"overall_accuracy", "macro_accuracy", "expected_calibration_error", "log_loss"}
FAST = [
    word
    for name, value in (small.FAST | {"epochs": EPOCHS}).items()
    for word in ("--set", f"schedule.{name}={value}")
] + ["--set", "lr_scale.backbone=1"]


@dataclass(frozen=True)
class Story:
    """One home and what every command of the main job said there, in this order."""

    home: Home
    world: World
    train: Any
    better: Any  # aad, not asked to promote
    promoted: Any  # the same again, asked to
    held: Any  # no better than the champion, asked to
    unlabelled: Any
    champions: list[str | None]  # champion after each of these
    promote: Any
    rollback: Any

    def run(self, output: Any) -> Any:
        return tracking.client().get_run(output["mlflow_run_id"])


@pytest.fixture(scope="module")
def story(world: World) -> Story:
    home = world.home("story")
    inputs = small.target_arrays()
    bare = {"x": inputs["x"][inputs["split"] == 0], "split": inputs["split"][inputs["split"] == 0]}
    nameless = small.write(world.folder, "bare", bare, {"adapt": 48}, classes=None)

    def adapt(target: Path, *more: object) -> Any:
        output = sfda(
            "adapt", "--source", "models:/toy@source", "--target", target, *more, "--json"
        )
        champions.append(champion())
        return output.json

    def champion() -> str | None:
        result = tracking.by_alias("toy", "champion")
        return result and result.version

    champions: list[str | None] = []
    aad = ["--method", "aad", *FAST]
    with home.entered():
        trained = sfda(
            "train-source", "--data", world.source, "--arch", "sfda:tiny", "--name", "toy",
            "--epochs", 6, "--checkpoint", "last", "--set", "schedule.lr=0.05", "--set",
            "schedule.batch_size=8", "--set", "schedule.decay=none", "--set",
            "lr_scale.backbone=1", "--json",
        ).json  # fmt: skip
        champions.append(champion())
        yield Story(
            home=home,
            world=world,
            train=trained,
            better=adapt(world.target, *aad),
            promoted=adapt(world.target, *aad, "--promote"),
            held=adapt(world.target, "--method", "shot", "--epochs", 1, "--promote", "--set",
                       "schedule.lr=1e-6"),
            unlabelled=adapt(nameless, *aad, "--promote"),
            champions=champions,
            promote=sfda("promote", "toy", "1", "--json").json,
            rollback=sfda("rollback", "toy", "--json").json,
        )  # fmt: skip


def test_training_registers_a_source_that_is_champion_of_its_name(story):
    assert story.train["uri"] == "models:/toy/1"
    assert story.train["metrics"]["macro_accuracy"] > 0.9
    assert set(story.train["metrics"]) == METRICS
    assert story.champions[0] == "1"
    assert tracking.by_alias("toy", "source").version == "1"
    run = story.run(story.train)
    assert run.data.params["arch"] == "sfda:tiny"
    assert run.data.params["schedule.lr"] == "0.05"
    assert [i.dataset.name for i in run.inputs.dataset_inputs] == [
        f"{story.world.source.parent.name}/source"
    ]
    stages = ["training", "card of the source", "registration"]
    assert completed_stages(story.train["flow_run_id"], len(stages)) == stages


def test_every_key_of_the_issues_table_is_there(story):
    assert {"name", "version", "uri", "metrics"} <= set(story.train)
    assert {
        "flow_run_id", "mlflow_run_id", "version", "uri", "selected_epoch", "scores", "metrics",
        "promoted", "seconds", "images_per_second", "peak_memory_mb",
    } <= set(story.better)  # fmt: skip
    assert set(story.better["metrics"]) == {"source", "adapted"}
    assert set(story.better["metrics"]["source"]) == METRICS
    assert {"infomax"} <= set(story.better["scores"])
    assert story.better["seconds"] > 0 < story.better["images_per_second"]
    assert story.better["peak_memory_mb"] > 10


def test_the_stages_have_the_users_words_and_the_second_time_come_from_the_cache(story):
    first = [(name, "Completed") for name in STAGES]
    assert flow_stages(story.better["flow_run_id"], first.__eq__) == first
    second = [(name, "Cached" if name in CACHED else "Completed") for name in STAGES]
    assert flow_stages(story.promoted["flow_run_id"], second.__eq__) == second


def test_artifacts_show_the_source_the_labels_the_choice_the_report_and_the_verdict(story):
    result = flow_artifacts(story.better["flow_run_id"])
    assert set(result) == {
        "source-model", "pseudo-labels", "target-profile", "progress", "choice", "results",
        "adaptation-report", "promotion-verdict", "report",
    }  # fmt: skip
    kind, _, coded = result["results"].partition(",")  # the picture itself, on no disk of ours
    assert kind == "data:image/png;base64"
    assert base64.b64decode(coded) == Path(story.better["panel"]).read_bytes()
    assert Path(story.better["report"]).as_uri() in result["report"]
    assert "Source card: complete" in result["source-model"]
    assert "48 images" in result["pseudo-labels"]
    counted = [int(r.split("|")[2]) for r in result["pseudo-labels"].splitlines() if "%" in r]
    assert sum(counted) == 2 * 48  # once by class, once by confidence
    for side in ("source", "adapted"):
        value = story.better["metrics"][side]["macro_accuracy"]
        assert f"{value:.4f}" in result["adaptation-report"]
    assert story.better["mlflow_run_id"] in result["adaptation-report"]
    choice = json.loads(result["choice"])
    assert [row["chosen"] for row in choice].index("yes") == story.better["selected_epoch"] - 1
    assert "better: macro accuracy 1.0000, before" in result["promotion-verdict"]
    assert "not promoted: --promote was not asked for" in result["promotion-verdict"]
    assert "Against `models:/toy/1`: changes" in result["promotion-verdict"]


def test_the_run_has_parameters_curves_by_step_and_the_dataset(story):
    run, client = story.run(story.better), tracking.client()
    assert run.info.status == "FINISHED"
    assert run.data.params["method"] == "aad"
    assert run.data.params["schedule.batch_size"] == "8"
    assert run.data.params["select_by"] == "infomax"
    assert run.data.params["source"] == "models:/toy/1"
    for loss in ("loss/attract", "loss/disperse", "rate"):
        steps = [m.step for m in client.get_metric_history(run.info.run_id, loss)]
        assert sorted(steps) == list(range(6 * EPOCHS))
    scores = client.get_metric_history(run.info.run_id, "score/infomax")
    by_epoch = {m.step: m.value for m in scores}
    assert sorted(by_epoch) == list(range(1, EPOCHS + 1))
    chosen = max(by_epoch, key=by_epoch.get)
    assert chosen == story.better["selected_epoch"]
    assert by_epoch[chosen] == pytest.approx(story.better["scores"]["infomax"])
    for side in ("source", "adapted"):
        for name, value in story.better["metrics"][side].items():
            assert run.data.metrics[f"{side}/{name}"] == pytest.approx(value)
    (result,) = run.inputs.dataset_inputs
    digest = small.sha256(story.world.target)
    assert result.dataset.digest == digest[:32]
    tags = {tag.key: tag.value for tag in result.tags}
    assert tags == {"mlflow.data.context": "target-unlabelled", "sha256": digest}
    assert run.data.tags["prefect.flow_run_id"] == story.better["flow_run_id"]
    assert run.data.tags["selected_by"] == "infomax"


def test_a_run_from_the_cache_shows_the_same_curves(story):
    def curves(output: Any) -> dict[str, list[tuple[int, float]]]:
        run = story.run(output)
        return {
            name: [(m.step, m.value) for m in tracking.client().get_metric_history(
                run.info.run_id, name)]
            for name in run.data.metrics if not name.startswith("system/")
        }  # fmt: skip

    assert story.better["mlflow_run_id"] != story.promoted["mlflow_run_id"]
    assert curves(story.better) == curves(story.promoted)


def test_the_picture_and_the_report_are_kept_with_the_run(story, tmp_path):
    client, run_id = tracking.client(), story.better["mlflow_run_id"]
    names = [file.path for file in client.list_artifacts(run_id)]
    assert {"report.json", "pictures"} <= set(names)
    report = json.loads(
        Path(client.download_artifacts(run_id, "report.json", tmp_path)).read_text()
    )
    assert report["split"] == "test"
    assert report["adapted"]["metrics"] == story.better["metrics"]["adapted"]
    assert sum(map(sum, report["adapted"]["confusion"])) == report["adapted"]["count"] == 30
    pictures = {
        Path(client.download_artifacts(run_id, file.path, tmp_path)).read_bytes()
        for file in client.list_artifacts(run_id, "pictures")
    }
    assert all(content.startswith(b"\x89PNG") for content in pictures)
    assert pictures == {Path(story.better[key]).read_bytes() for key in ("picture", "panel")}
    (page,) = client.list_artifacts(run_id, "report")
    content = Path(client.download_artifacts(run_id, page.path, tmp_path)).read_text()
    assert content == Path(story.better["report"]).read_text()


def test_every_run_has_a_page_of_its_own_with_a_name_that_people_read(story):
    runs = (story.better, story.promoted, story.held, story.unlabelled)
    folders = [Path(run["report"]).parent for run in runs]
    assert len(set(folders)) == len(runs), "also of runs in the same minute"
    assert {folder.parent for folder in folders} == {story.home.path / "reports"}
    site = f"{story.world.target.parent.name}-target"
    assert re.fullmatch(re.escape(site) + r"-aad-\d{4}-\d\d-\d\d-\d{4}", folders[0].name)
    for run, folder in zip(runs, folders, strict=True):
        page = html.unescape((folder / "report.html").read_text())
        assert run["verdict"] in page
        assert all(command in page for command in run["next"])
        assert [file.name for file in folder.iterdir()] == ["report.html"]
    assert "so neither model could be measured" in (folders[3] / "report.html").read_text()


def test_the_version_describes_itself(story):
    version = tracking.client().get_model_version("toy", story.better["version"])
    assert version.description.startswith(f"# models:/toy/{story.better['version']}\n")
    assert "| macro\\_accuracy |" in version.description


def test_the_version_says_where_it_comes_from(story):
    version = tracking.find_version("toy", story.better["version"])
    tags = tracking.version_tags(version)
    assert tags["method"] == "aad"
    assert tags["source"] == "models:/toy/1"
    assert tags["source.sha256"] == tracking_sha("1")
    assert tags["manifest.sha256"] == small.sha256(story.world.target)
    assert json.loads(tags["report"])["adapted"] == story.better["metrics"]["adapted"]
    # the same work once more, with --promote, has made no other version
    assert story.promoted["version"] == story.better["version"] != story.held["version"]
    assert tags["verdict"] == story.promoted["verdict"]
    assert tags["verdict.kind"] == "promote"
    assert tags["sha256"] == tracking_sha(version.version) != tracking_sha("1")


def final(stages: Stages) -> list[str]:
    """Names of the stages that have ended."""
    return [name for name, state in stages if state in ("Completed", "Cached")]


def tracking_sha(version: str) -> str:
    from tasks.tracking.models import model_ref

    return model_ref(f"models:/toy/{version}").sha256


def test_the_adapted_model_carries_its_sources_card_on(story):
    from sfda.problems.registry import PROBLEMS
    from sfda.weights.source_card import missing, read_card
    from tasks.tracking.models import locate

    card = read_card(locate(story.better["uri"]))
    assert missing(card, PROBLEMS["classification"].card_parts) == []
    assert card.facts.manifest == "toy/source"
    assert card.facts.count == 30


def test_only_what_is_better_is_promoted_and_only_when_that_is_asked_for(story):
    source, adapted = (story.better["metrics"][side]["macro_accuracy"] for side in
                       ("source", "adapted"))  # fmt: skip
    assert adapted == 1.0 > source
    assert not story.better["promoted"]
    assert story.promoted["promoted"]
    assert not story.held["promoted"]
    assert not story.unlabelled["promoted"]
    third = story.promoted["version"]
    assert story.champions == ["1", "1", third, third, third]
    verdicts = [
        tracking.version_tags(tracking.find_version("toy", output["version"]))["verdict"]
        for output in (story.promoted, story.held)
    ]
    assert verdicts[0].startswith("promoted: macro accuracy")
    assert verdicts[1].startswith("rejected: it agrees with the model before on")
    assert story.better["verdict"].endswith("not promoted: --promote was not asked for")
    assert story.better["next"] == [f"sfda promote toy {story.better['version']}"]
    kinds = [output["kind"] for output in (story.better, story.promoted, story.held)]
    assert kinds == ["promote", "promote", "reject"]


def test_without_labels_there_are_no_metrics_and_a_person_is_asked(story):
    held = story.unlabelled
    assert held["metrics"] == {"source": None, "adapted": None}
    assert held["picture"] is None
    assert held["kind"] == "hold"
    assert held["champion"] == f"models:/toy/{story.promoted['version']}"
    assert held["change"]["answers"] == 24  # of 48 images half are held out
    assert held["verdict"].startswith(f"held: changes {held['change']['changed']} of 24 answers")
    folder = Path(held["audit"])
    assert folder == story.home.path / "audits" / f"toy-{held['version']}"
    assert {"audit.html", "audit.json", "request.csv"} <= {file.name for file in folder.iterdir()}
    assert held["next"] == [f"open {folder}/audit.html", f"sfda audit {folder} ANSWERS --promote"]
    metrics = story.run(held).data.metrics
    assert not [name for name in metrics if name.startswith(("source/", "adapted/"))]
    assert metrics["change"] == held["change"]["share"]
    report = flow_artifacts(held["flow_run_id"])["adaptation-report"]
    assert "no labels" in report


def test_promote_and_rollback_move_the_champion_and_keep_the_history(story):
    third = story.promoted["version"]
    assert story.promote == {"name": "toy", "version": "1", "previous": third, "again": False}
    assert story.rollback == {"name": "toy", "version": third, "previous": "1", "again": False}
    assert tracking.champions("toy") == ["1", third]
    assert tracking.canonical("models:/toy@champion") == f"models:/toy/{third}"
    assert tracking.canonical("models:/toy@candidate") == story.unlabelled["uri"]


def test_nothing_is_left_running(story):
    open_runs = tracking.client().search_runs(
        [tracking.experiment()], "attributes.status = 'RUNNING'"
    )
    assert not open_runs


LOADS = """
import json, sys
import mlflow, numpy as np
model = mlflow.pyfunc.load_model(sys.argv[1])
import sfda
found = model.predict(np.load(sys.argv[2]))
print(json.dumps({
    "label": list(map(str, found["label"])),
    "confidence": [float(c) for c in found["confidence"]],
    "sum": [float(s) for s in found["probabilities"].sum(1)],
    "from": sfda.__file__,
    "signature": str(model.metadata.signature.inputs),
}))
"""


def test_a_version_answers_elsewhere_as_sfda_predict_does(story, tmp_path):
    inputs = small.target_arrays()
    images, labels = (inputs[name][inputs["split"] == 1] for name in "xy")
    np.save(tmp_path / "images.npy", images[..., None])
    remaining = ("PATH", "HOME", "MLFLOW_TRACKING_URI")
    ended = subprocess.run(
        [sys.executable, "-c", LOADS, story.better["uri"], str(tmp_path / "images.npy")],
        cwd=tmp_path,
        env={name: os.environ[name] for name in remaining} | {"MLFLOW_DISABLE_TELEMETRY": "true"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    result = json.loads(ended.stdout.splitlines()[-1])
    code = Path(result["from"]).parents[1]  # the archive that came with the model
    assert code.is_relative_to(story.home.path)
    assert {file.name for file in code.parent.glob("[!_]*")} == {"sfda.zip", "sfda_archive.py"}
    assert "uint8" in result["signature"]
    assert "(-1, -1, -1, 1)" in result["signature"]
    assert np.allclose(result["sum"], 1)

    output = sfda(
        "predict", "--model", story.better["uri"], "--data", story.world.target, "--split", "test",
        "--out", tmp_path / "answers", "--json",
    ).json  # fmt: skip
    with open(output["file"], newline="") as file:
        rows = list(csv.DictReader(file))
    assert output["count"] == len(rows) == 30
    assert [row["label"] for row in rows] == result["label"]
    assert np.allclose([float(r["confidence"]) for r in rows], result["confidence"], atol=1e-5)
    right = [small.CLASSES[y] == label for y, label in zip(labels, result["label"], strict=True)]
    evaluated = sfda("evaluate", "--model", story.better["uri"], "--data", story.world.target,
                     "--json").json["metrics"]  # fmt: skip
    assert evaluated == story.better["metrics"]["adapted"]
    assert evaluated["overall_accuracy"] == pytest.approx(np.mean(right))


def test_what_was_deleted_or_altered_is_made_anew(story):
    again = ["adapt", "--source", "models:/toy@source", "--target", story.world.target,
             "--method", "aad", *FAST, "--json"]  # fmt: skip
    Path(story.better["picture"]).unlink()
    sha256 = tracking_sha(story.better["version"])
    remaining = [p for p in story.home.path.glob("runs/*/epoch-*") if bundle_sha(p) == sha256]
    for folder in remaining:
        weights = folder / "weights.safetensors"
        weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")
    assert remaining
    output = sfda(*again).json
    # the version is there already, and champion: it is compared with nobody
    ended = {*CACHED, "promotion"} - {"comparison with the champion"}
    states = dict(flow_stages(output["flow_run_id"], lambda stages: ended <= set(final(stages))))
    assert states["pseudo-labelling of the target"] == "Cached"
    assert (states["adaptation"], states["evaluation"]) == ("Completed", "Completed")
    assert output["scores"] == story.better["scores"]
    assert tracking_sha(output["version"]) == tracking_sha(story.better["version"])
    assert Path(output["picture"]).is_file()


def bundle_sha(folder: Path) -> str:
    from sfda.weights.bundle import bundle_digest

    return bundle_digest(folder)


def test_a_comparison_tells_selected_last_oracle_regret_and_harm(story):
    words = [
        "compare", "--source", "models:/toy@source", "--target", story.world.target, "--methods",
        "aad,shot,supervised", "--seeds", "0,1", *FAST, "--set", "shot.schedule.lr=1e-6", "--json",
    ]  # fmt: skip
    first = sfda(*words).json
    rows = {(row["method"], row["metric"]): row for row in first["rows"]}
    assert {method for method, _ in rows} == {"source", "gda", "aad", "shot", "supervised"}
    before = story.better["metrics"]["source"]
    bar = rows.pop(("gda", "overall_accuracy"))  # nobody has asked for it
    assert (bar["seeds"], bar["selected_epochs"], bar["selected_by"]) == ([0], [1], "last")
    assert bar["selected"] == bar["oracle"] >= bar["source"] - 0.02
    rows.pop(("gda", "macro_accuracy"))
    for (method, metric), row in rows.items():
        assert row["source"] == before[metric]
        if method == "source":
            assert row["selected"] == row["last"] == row["oracle"] == before[metric]
            continue
        selected, last, oracle = (row[f"{n}_values"] for n in ("selected", "last", "oracle"))
        assert row["seeds"] == [0, 1]
        assert row["selected"] == pytest.approx(statistics.mean(selected))
        assert row["selected_spread"] == pytest.approx(statistics.stdev(selected))
        assert row["last"] == pytest.approx(statistics.mean(last))
        assert row["oracle"] == pytest.approx(statistics.mean(oracle))
        assert row["regret"] == pytest.approx(row["oracle"] - row["selected"])
        harmed = [value < before[metric] for value in selected]
        assert row["harm_rate"] == pytest.approx(statistics.mean(map(float, harmed)))
        assert all(o >= s for o, s in zip(oracle, selected, strict=True))
        assert all(o >= value for o, value in zip(oracle, last, strict=True))
    assert rows["supervised", "macro_accuracy"]["selected_by"] == "last"
    own = rows["supervised", "macro_accuracy"]
    assert own["selected_values"] == own["last_values"]
    chosen = rows["aad", "overall_accuracy"]["selected_values"][0]
    assert chosen == story.better["metrics"]["adapted"]["overall_accuracy"]  # seed 0, as above

    folder = Path(first["report"]).parent
    assert {file.name for file in folder.iterdir()} == {"report.html", "table.md", "plot.png"}
    assert (folder / "table.md").read_text() == first["table"] + "\n"
    for row in rows.values():  # what the epochs gave, from the runs' own curves
        if row["method"] in ("aad", "shot"):
            check_against_curves(first, row)

    second = sfda(*words).json
    assert second["rows"] == first["rows"]
    cached = {"adaptation": 5, "evaluation of all epochs": 5, "training": 2}

    def count(stages: Stages) -> dict[str, int]:
        names = [name for name, state in stages if state == "Cached"]
        return {name: names.count(name) for name in cached}

    stages = flow_stages(second["flow_run_id"], lambda stages: count(stages) == cached)
    assert count(stages) == cached
    assert "comparison" in flow_artifacts(second["flow_run_id"])
    assert first["table"] == second["table"]
    assert f"{100 * rows['aad', 'macro_accuracy']['oracle']:.2f}" in first["table"]


def check_against_curves(output: Any, row: dict[str, Any]) -> None:
    """Selected, last and oracle of every seed follow from `target/<metric>` of its run."""
    client = tracking.client()
    where = f"tags.`mlflow.parentRunId` = '{output['mlflow_run_id']}'"
    for n, seed in enumerate(row["seeds"]):
        (run,) = [
            run
            for run in client.search_runs([tracking.experiment()], where)
            if (run.data.params["method"], run.data.params["seed"]) == (row["method"], str(seed))
        ]
        history = client.get_metric_history(run.info.run_id, f"target/{row['metric']}")
        values = {m.step: m.value for m in history}
        assert len(values) == EPOCHS
        assert math.isclose(row["oracle_values"][n], max(values.values()))
        assert math.isclose(row["last_values"][n], values[max(values)])
        assert math.isclose(row["selected_values"][n], values[row["selected_epochs"][n]])
        scores = client.get_metric_history(run.info.run_id, f"score/{row['selected_by']}")
        by_epoch = {m.step: m.value for m in scores}
        assert by_epoch.keys() == values.keys() == set(range(1, EPOCHS + 1)), "counted alike"
        assert max(by_epoch, key=by_epoch.get) == row["selected_epochs"][n]


def test_a_comparison_against_new_labels_comes_through_deleted_weights(story):
    """The weights of the earlier comparison are gone; other labels need them once more."""
    inputs = small.target_arrays()
    inputs["y"] = inputs["y"].copy()
    test = np.flatnonzero(inputs["split"] == 1)
    inputs["y"][test[:10]] = (inputs["y"][test[:10]] + 1) % 3
    corrected = small.write(story.world.folder, "corrected", inputs, small.TARGET)

    def compare(target: Path) -> Any:
        return sfda("compare", "--source", "models:/toy@source", "--target", target, "--methods",
                    "aad", *FAST, "--json").json  # fmt: skip

    first, second = compare(story.world.target), compare(corrected)
    values = [
        next(row for row in output["rows"] if (row["method"], row["metric"])
             == ("aad", "overall_accuracy"))
        for output in (first, second)
    ]  # fmt: skip
    assert values[0]["selected_epochs"] == values[1]["selected_epochs"]
    assert [row["selected"] for row in values] == [1.0, pytest.approx(2 / 3)]


def test_the_command_of_a_page_does_the_same_again(story):
    page = html.unescape(Path(story.better["report"]).read_text())
    (command,) = re.findall(r"<code>(sfda adapt [^<]*)</code>", page)
    again = sfda(*shlex.split(command)[1:], "--json").json
    assert again["scores"] == story.better["scores"]
    assert again["metrics"] == story.better["metrics"]
