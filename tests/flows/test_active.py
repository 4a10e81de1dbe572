"""Ask, answer, adapt, through the commands; and rounds with a simulated annotator."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import small
import small_seg
from conftest import World, flow_artifacts, sfda
from PIL import Image

from flows import rounds
from tasks import tracking

pytestmark = pytest.mark.flow
FAST = [
    word
    for name, value in (small.FAST | {"epochs": 2}).items()
    for word in ("--set", f"schedule.{name}={value}")
]


def answered(folder: Path, labels: dict[str, str] | None = None) -> Path:
    """Label Studio's export of a request: the predictions, or these classes by key."""
    tasks = json.loads((folder / "label_studio.json").read_text())
    for task in tasks:
        result = task.pop("predictions")[0]["result"]
        if labels:
            result[0]["value"]["choices"] = [labels[task["data"]["file"]]]
        task["annotations"] = [{"was_cancelled": False, "result": result}]
    out = folder / "export.json"
    out.write_text(json.dumps(tasks))
    return out


def test_a_person_is_asked_and_the_answers_are_learnt_from(world: World, tmp_path: Path) -> None:
    inputs = small.target_arrays()
    truth = {str(i): small.CLASSES[label] for i, label in enumerate(inputs["y"])}
    target = small.write(tmp_path, "target", inputs, small.TARGET)
    with world.home("asked").entered():
        ask = ["query", "--model", world.bundle, "--by", "lftl", "--json"]
        output = sfda(*ask, "--target", target, "--budget", "25%", "--out", tmp_path / "ask").json
        assert output["count"] == 12
        assert output["copied"], "there is no file that a tool could open"
        images = {p.name for p in (tmp_path / "ask" / "images").iterdir()}
        assert len(images) == 12
        again = sfda(*ask, "--target", target, "--budget", 12, "--out", tmp_path / "same").json
        assert again["wanted"] == output["wanted"]
        export = answered(tmp_path / "ask", truth)
        taken = sfda("answer", tmp_path / "ask", export, "--target", target, "--json").json
        assert taken["answered"] == 12
        assert sfda("check", taken["manifest"], "--json").json["ok"]
        more = sfda(*ask, "--target", taken["manifest"], "--budget", 6, "--out", tmp_path / "more",
                    "--before", tmp_path / "ask").json  # fmt: skip
        assert not set(more["wanted"]) & set(output["wanted"])
        losses = {}
        for method in ("lftl", "shot", "lp_ft", "bn"):
            extra = ["--set", "steps=3", "--set", "head_epochs=1"] if method == "lp_ft" else []
            words = ["adapt", "--source", world.bundle, "--target", taken["manifest"], "--method",
                     method, "--name", f"toy-{method}", *FAST, *extra, "--json"]  # fmt: skip
            if method == "bn":
                words = [w for w in words if w not in FAST]
            result = sfda(*words).json
            assert result["metrics"]["adapted"]["overall_accuracy"] > 0.3
            run = tracking.client().get_run(result["mlflow_run_id"])
            losses[method] = {n for n in run.data.metrics if n.startswith("loss/")}
        assert losses["lftl"] == {"loss/class", "loss/infomax", "loss/anchors"}
        assert "loss/labelled_class" in losses["shot"]
        assert losses["lp_ft"] == {"loss/class"}
        assert losses["bn"] == set()


def test_scenes_are_asked_about_and_learnt_from(world: World, tmp_path: Path) -> None:
    small_seg.bundle(tmp_path / "model")
    target = small_seg.write(tmp_path, "target", small_seg.TARGET, seed=3, dull=True)
    with world.home("scenes").entered():
        output = sfda("query", "--model", tmp_path / "model", "--target", target, "--by", "entropy",
                    "--budget", 4, "--out", tmp_path / "ask", "--json").json  # fmt: skip
        assert not output["copied"]
        assert all(name.startswith("images/") for name in output["wanted"])
        taken = sfda("answer", tmp_path / "ask", answered(tmp_path / "ask"), "--target", target,
                     "--json").json  # fmt: skip
        result = sfda("adapt", "--source", tmp_path / "model", "--target", taken["manifest"],
                     "--method", "mean_teacher", "--epochs", 2, "--name", "scenes",
                     "--json").json  # fmt: skip
        run = tracking.client().get_run(result["mlflow_run_id"])
        assert {"loss/class", "loss/labelled_class"} <= set(run.data.metrics)


def test_a_file_whose_name_holds_an_at_keeps_it(world: World, tmp_path: Path) -> None:
    folder = tmp_path / "site"
    folder.mkdir()
    for n, image in enumerate(small.target_arrays()["x"][:4]):
        Image.fromarray(image).save(folder / f"{n}@2x.png")
    (folder / "broken.png").write_bytes(b"")  # nobody is asked about it
    with world.home("at").entered():
        sfda("query", "--model", world.bundle, "--target", folder, "--by", "random", "--budget", 4,
             "--out", tmp_path / "ask", "--json")  # fmt: skip
    request = json.loads((tmp_path / "ask" / "request.json").read_text())
    assert sorted(w["file"] for w in request["wanted"]) == [f"{n}@2x.png" for n in range(4)]


def test_bad_requests_end_with_one_message(world: World, tmp_path: Path) -> None:
    damaged, empty = tmp_path / "damaged", tmp_path / "empty"
    for folder, content in ((damaged, b"PK\x03\x04 and no more"), (empty, b"")):
        folder.mkdir()
        (folder / "probabilities.npz").write_bytes(content)
    with world.home("bad-request").entered():
        cases: list[tuple[list[Any], str]] = [
            (["--by", "mragin", "--budget", 5], "did you mean 'margin'"),
            (["--by", "margin", "--budget", "0"], "write a number above 0"),
            (["--by", "margin", "--budget", "x%"], "write a number above 0"),
            (["--by", "margin", "--budget", "inf%"], "write a number above 0"),
            (["--by", "margin", "--budget", 5, "--split", "none"], "no split 'none'"),
            (["--by", "lftl", "--budget", 5, "--before", tmp_path], "holds no probabilities"),
            (["--by", "lftl", "--budget", 5, "--before", damaged], "is missing or damaged"),
            (["--by", "lftl", "--budget", 5, "--before", empty], "is missing or damaged"),
            (["--by", "margin", "--budget", 5, "--set", "divers=2"], "there is no 'divers'"),
        ]
        for words, message in cases:
            output = sfda("query", "--model", world.bundle, "--target", world.target, "--out",
                        tmp_path / "out", *words)  # fmt: skip
            assert output.code == 2, output.err
            assert message in output.err
            assert not (tmp_path / "out").exists()
        (tmp_path / "full").mkdir()
        (tmp_path / "full" / "x").touch()
        output = sfda("query", "--model", world.bundle, "--target", world.target, "--out",
                    tmp_path / "full", "--by", "random", "--budget", 5)  # fmt: skip
        assert (output.code, "holds something already" in output.err) == (2, True)
        output = sfda("query", "--model", world.bundle, "--target", world.target, "--out",
                    tmp_path / "full" / "x", "--by", "random", "--budget", 5)  # fmt: skip
        assert (output.code, "is a file; name a new folder" in output.err) == (2, True)


def test_rounds_spend_their_budgets_and_tell_what_came_of_it(world: World) -> None:
    with world.home("rounds").entered():
        output = sfda(
            "rounds", "--source", world.bundle, "--target", world.target, "--queries",
            "random,lftl", "--methods", "lftl,shot", "--budgets", "6,12", "--seeds", "0,1", *FAST,
            "--json",
        ).json  # fmt: skip
        rows = output["rows"]
        assert len(rows) == 2 * 2 * 2 * 2
        assert {row["labels"] for row in rows} == {6, 12}
        assert "| `lftl` | `random` |" in output["table"]
        assert flow_artifacts(output["flow_run_id"])["rounds"] == output["table"]
        client = tracking.client()
        files = {f.path for f in client.list_artifacts(output["mlflow_run_id"])}
        assert {"labels.png", "rounds.json"} <= files
        history = client.get_metric_history(output["mlflow_run_id"], "lftl/shot/overall_accuracy")
        assert {m.step for m in history} == {6, 12}


def test_killed_rounds_go_on_where_they_were(world: World, monkeypatch: Any) -> None:
    words = [
        "rounds", "--source", world.bundle, "--target", world.target, "--queries", "random,margin",
        "--methods", "shot", "--budgets", "6,12", *FAST, "--json",
    ]  # fmt: skip
    with world.home("rounds-undisturbed").entered():
        expected = sfda(*words).json["rows"]
    adapt, calls = rounds.adapt_to_target, []

    def dying(*inputs: Any) -> Any:
        calls.append(inputs[6])
        if len(calls) == 3:
            raise KeyboardInterrupt
        return adapt(*inputs)

    monkeypatch.setattr(rounds, "adapt_to_target", dying)
    with world.home("rounds-killed").entered():
        assert sfda(*words).code != 0
        (run,) = tracking.client().search_runs([tracking.experiment()])
        assert run.info.status == "KILLED"
        output = sfda(*words).json
        assert output["mlflow_run_id"] == run.info.run_id
        history = tracking.client().get_metric_history(
            run.info.run_id, "random/shot/overall_accuracy"
        )
        assert [m.step for m in history] == [6, 12], "told once"
        again = sfda(*words).json
        assert again["mlflow_run_id"] != run.info.run_id, "a finished experiment begins anew"
    first, second = "random, shot, ", "margin, shot, "
    assert [title.startswith(first) for title in calls[:2]] == [True, True]
    assert all(title.startswith(second) for title in calls[2:5]), "what was done is not done again"
    untimed = [{k: v for k, v in row.items() if k != "seconds"} for row in output["rows"]]
    assert untimed == [{k: v for k, v in row.items() if k != "seconds"} for row in expected]
