"""A target that grows: versions, when an adaptation starts, and what a look costs otherwise."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
import small
import yaml
from asking import exported
from conftest import CommandResult, Home, World, flow_artifacts, sfda
from PIL import Image

from flows.cli import adapt as adapt_commands
from sfda.errors import BadInput
from sfda.manifests.opening import open_manifest
from sfda.manifests.rows import read_split
from tasks import tracking

pytestmark = pytest.mark.flow


def put_images(folder: Path, first: int, count: int, *, dull: bool = True, seed: int = 5) -> None:
    """So many images of the target, written long ago."""
    folder.mkdir(parents=True, exist_ok=True)
    labels = np.arange(first, first + count) % 3
    for i, image in enumerate(small.patterns(labels, seed=seed + first, dull=dull)):
        file = folder / f"{first + i:04d}.png"
        Image.fromarray(image).save(file)
        os.utime(file, (time.time() - 1000, time.time() - 1000))


def put_bytes(file: Path, content: bytes) -> None:
    """A file of the target, written long ago."""
    file.write_bytes(content)
    os.utime(file, (time.time() - 900, time.time() - 900))


def look(
    world: World, folder: Path, *more: object, settings: tuple[str, ...] = ()
) -> CommandResult:
    inputs = small.FAST | {"epochs": 1}
    fast = [w for n, value in inputs.items() for w in ("--set", f"schedule.{n}={value}")]
    return sfda(
        "refresh", folder, "--source", world.bundle, "--name", "toy", "--method", "shot", *fast,
        *more, "--json",
    )  # fmt: skip


@pytest.fixture
def home(world: World, request: pytest.FixtureRequest):
    made = world.home(request.node.name)
    with made.entered():
        yield made


def test_the_life_of_a_growing_folder(world: World, home: Home):
    folder = home.path / "site"
    folder.mkdir()
    empty = look(world, folder).json
    assert (empty["outcome"], empty["version"]) == ("waiting", 0)

    put_images(folder, 0, 40)
    first = look(world, folder).json
    assert (first["outcome"], first["version"]) == ("adapted", 1)
    assert first["says"].startswith("the first look (40 added)")
    assert [v.version for v in tracking.versions("toy")] == ["1"]

    same = look(world, folder).json
    assert (same["outcome"], same["says"]) == ("unchanged", "nothing has changed")
    assert same["version"] == 1

    put_images(folder, 40, 2)
    few = look(world, folder).json
    assert (few["outcome"], few["version"]) == ("waiting", 2)
    assert few["says"].startswith("2 added of 40; 4 changes start an adaptation")

    put_images(folder, 42, 3)
    (folder / "0000.png").unlink()
    enough = look(world, folder).json
    assert (enough["outcome"], enough["version"]) == ("adapted", 3)
    assert enough["says"].startswith("enough has changed (5 added, 1 removed)")
    assert [v.version for v in tracking.versions("toy")] == ["2", "1"]

    record = json.loads((home.path / "targets/site/v0003.json").read_text())
    assert record["removed"] == ["0000.png"]
    assert len(record["added"]) == 3
    assert len(record["files"]) == 44
    digest = small.sha256(folder / "0042.png")
    assert record["files"]["0042.png"] == digest


def test_one_broken_image_is_left_out_named_and_tried_again(world: World, home: Home):
    folder = home.path / "broken"
    put_images(folder, 0, 40)
    good = (folder / "0007.png").read_bytes()
    put_bytes(folder / "0007.png", good[:60])
    put_bytes(folder / "scan.psd", b"8BPS")
    first = look(world, folder).json
    assert first["outcome"] == "adapted"
    assert [("0007.png" in one) for one in first["skipped"]] == [True]
    assert "1 .psd (scan.psd)" in first["passed_over"]
    assert "0007.png" in flow_artifacts(first["adapted"]["flow_run_id"])["images-left-out"]
    page = Path(first["adapted"]["report"]).read_text()
    assert "Images were left out, which cannot be read: image " in page

    out = home.path / "predicted"
    predict = ("predict", "--model", world.bundle, "--data", folder, "--out", out, "--json")
    predicted = sfda(*predict).json
    assert (predicted["count"], len(predicted["skipped"])) == (39, 1)
    refused = sfda(*predict, "--skip-unreadable", 0)
    assert refused.code == 2
    assert "mend or remove them and run the same again" in refused.err

    put_bytes(folder / "0007.png", good)
    assert sfda(*predict).json["skipped"] == []
    assert look(world, folder).json["change"]["altered"] == ["0007.png"]


def test_new_images_that_are_all_broken_end_nothing(world: World, home: Home):
    folder = home.path / "later"
    put_images(folder, 0, 40)
    look(world, folder)
    put_images(folder, 40, 1)
    broken = folder / "0040.png"
    put_bytes(broken, broken.read_bytes()[:60])
    assert look(world, folder).json["outcome"] == "waiting"


def test_the_state_tells_nothing_to_do_from_work_done(world: World, home: Home):
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.sorting import FlowRunSort

    folder = home.path / "states"
    put_images(folder, 0, 12)
    look(world, folder)
    look(world, folder)
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(limit=20, sort=FlowRunSort.START_TIME_DESC)
    ours = [run for run in runs if run.name == "refresh states" or run.name.endswith("/states")]
    assert [(r.state.name, r.state.type.value) for r in ours] == [
        ("Unchanged", "COMPLETED"),
        ("Adapted", "COMPLETED"),
    ]
    assert flow_artifacts(str(ours[0].id))["refresh"].endswith("nothing has changed")


def test_new_images_that_look_different_start_it_though_they_are_few(world: World, home: Home):
    folder = home.path / "drifting"
    put_images(folder, 0, 60, dull=False)
    first = look(world, folder, "--policy", "min_files=500").json
    assert first["outcome"] == "adapted"

    put_images(folder, 100, 40, dull=False, seed=77)
    alike = look(world, folder, "--policy", "min_files=500").json
    assert alike["outcome"] == "waiting"
    assert "new images look alike" in alike["says"]

    put_images(folder, 200, 90, dull=True)
    odd = look(world, folder, "--policy", "min_files=500").json
    assert odd["outcome"] == "adapted", odd["says"]
    assert odd["says"].startswith("new images look different")
    assert odd["drift"]["index"] > 0.25 + odd["drift"]["noise"]
    off = look(world, folder, "--policy", "drift=null", "--policy", "min_files=500").json
    assert off["outcome"] == "unchanged"


def test_labels_make_a_test_split_and_new_labels_a_new_version(world: World, home: Home):
    folder = home.path / "labelled"
    put_images(folder, 0, 30)
    csv = home.path / "labels.csv"
    rows = [f"{i:04d}.png,{small.CLASSES[i % 3]}" for i in range(9)]
    csv.write_text("\n".join(["file,class", *rows]))
    first = look(world, folder, "--labels", csv, "--promote").json
    assert first["adapted"]["metrics"]["adapted"] is not None
    csv.write_text("\n".join(["file,class", *rows[:-3]]))
    again = look(world, folder, "--labels", csv).json
    assert (again["outcome"], again["version"]) == ("unchanged", 2)


def test_an_event_is_all_that_follows_where_it_is_asked_for(world: World, home: Home):
    folder = home.path / "announced"
    put_images(folder, 0, 9)
    result = look(world, folder, "--announce").json
    assert result["outcome"] == "announced"
    assert tracking.versions("toy") == []
    assert look(world, folder, "--announce").json["outcome"] == "unchanged"


def test_a_list_and_a_manifest_are_targets_too(world: World, home: Home):
    folder = home.path / "files"
    put_images(folder, 0, 12)
    names = folder / "some.txt"
    names.write_text("\n".join(f"{i:04d}.png" for i in range(9)))
    assert look(world, names).json["says"].startswith("the first look (9 added)")
    names.write_text("\n".join(f"{i:04d}.png" for i in range(12)))
    assert look(world, names).json["says"].startswith("enough has changed (3 added)")
    assert look(world, world.target, "--target-name", "npz").json["outcome"] == "adapted"
    assert look(world, world.target, "--target-name", "npz").json["outcome"] == "unchanged"


def test_a_manifest_that_was_corrected_is_looked_at_as_it_is_now(world: World, home: Home):
    made = home.path / "target.yaml"
    document = yaml.safe_load(world.target.read_text()) | {"root": str(world.target.parent)}
    document["root"] = os.path.relpath(world.target.parent, home.path)
    if not document["root"].startswith("."):
        document["root"] = f"./{document['root']}"
    classes = document["classes"]
    made.write_text(yaml.safe_dump(document | {"classes": [f"no {name}" for name in classes]}))
    output = look(world, made)
    assert output.code == 2, output.err
    made.write_text(yaml.safe_dump(document))
    assert look(world, made).json["outcome"] == "adapted"
    assert len(tracking.versions("toy")) == 1
    assert look(world, made).json["outcome"] == "unchanged"
    made.write_text(made.read_text() + "# a remark\n")
    again = look(world, made).json
    assert (again["outcome"], again["version"]) == ("unchanged", 3)
    assert look(world, made).json["version"] == 3
    assert len(tracking.versions("toy")) == 1


def test_a_kill_after_the_adaptation_registers_nothing_twice(
    world: World, home: Home, monkeypatch: pytest.MonkeyPatch
):
    folder = home.path / "killed"
    put_images(folder, 0, 12)

    def killed(*_args: object) -> None:
        raise BadInput("the power is gone")

    monkeypatch.setattr("flows.refresh_target._remember_profile", killed)
    assert look(world, folder).code == 2
    monkeypatch.undo()
    assert look(world, folder).json["outcome"] == "unchanged"
    assert len(tracking.versions("toy")) == 1


def test_what_is_wrong_is_said_in_one_line(world: World, home: Home):
    folder = home.path / "faults"
    put_images(folder, 0, 9)
    for more, message in (
        (("--policy", "min_shar=0.1"), "min_shar"),
        (("--policy", "min_share=3"), "min_share"),
        (("--labels", home.path / "no.csv"), "no.csv"),
        (("--budget", "soon"), "soon"),
        (("--target-name", "a/b"), "a/b"),
    ):
        output = look(world, folder, *more)
        assert output.code == 2, output
        assert message in output.err
        assert "Traceback" not in output.err
    (folder / "0003.png").write_bytes(b"no picture")
    os.utime(folder / "0003.png", (1, 1))
    output = look(world, folder, "--skip-unreadable", 0)
    assert output.code == 2
    assert "0003.png" in output.err
    put_images(folder, 0, 9)
    assert look(world, folder).json["outcome"] == "adapted"
    other = home.path / "elsewhere"
    put_images(other, 0, 3)
    output = look(world, other, "--target-name", "faults")
    assert output.code == 2
    assert "--target-name" in output.err


def test_a_second_look_at_the_same_time_does_nothing(world: World, home: Home):
    from sfda.adaptation.target_versions import target_folder

    folder = home.path / "shared"
    put_images(folder, 0, 9)
    with target_folder("shared") as held:
        assert held is not None
        assert look(world, folder).json["outcome"] == "busy"
    assert look(world, folder).json["outcome"] == "adapted"


def test_watch_looks_again_and_survives_a_fault(
    world: World, home: Home, monkeypatch: pytest.MonkeyPatch
):
    folder = home.path / "watched"
    put_images(folder, 0, 9)
    really, looks = adapt_commands.refresh_once, []

    def unlucky(*inputs: object) -> None:
        looks.append(1)
        if len(looks) == 2:
            raise RuntimeError("the database is locked")
        really(*inputs)

    monkeypatch.setattr(adapt_commands, "refresh_once", unlucky)
    output = sfda(
        "watch", folder, "--source", world.bundle, "--name", "toy", "--method", "bn", "--every",
        "1s", "--looks", "3", "--json",
    )  # fmt: skip
    assert output.code == 0, output.err
    lines = [json.loads(line)["outcome"] for line in output.out.splitlines()]
    assert lines == ["adapted", "unchanged"]
    assert "the database is locked; the next look is in 1s" in output.err


def test_answers_about_a_folder_stay_with_it(world: World, home: Home):
    """They are in every later version, start an adaptation, and are never asked for again."""
    folder = home.path / "site"
    put_images(folder, 0, 30)
    assert look(world, folder).json["outcome"] == "adapted"
    ask = ["query", "--model", world.bundle, "--target", folder, "--by", "margin", "--json"]

    def answered(folder: Path, count: int) -> list[str]:
        asked = sfda(*ask, "--budget", count, "--out", folder).json
        sfda("answer", folder, exported(folder), "--target", asked["manifest"], "--json")
        return asked["wanted"]

    one = answered(home.path / "ask1", 4)
    message = look(world, folder).json
    assert (message["outcome"], message["version"]) == ("adapted", 2)
    assert message["says"].startswith("people have answered: models:/")
    run = tracking.client().get_run(message["adapted"]["mlflow_run_id"])
    assert "loss/labelled_class" in run.data.metrics
    assert look(world, folder).json["outcome"] == "unchanged"

    two = answered(home.path / "ask2", 3)
    assert not set(one) & set(two)
    put_images(folder, 30, 20)
    put_images(folder, int(one[0][:4]), 1, seed=77)  # another image under the same name
    (folder / one[1]).unlink()
    grown = look(world, folder).json
    assert (grown["outcome"], grown["version"]) == ("adapted", 3)
    split = read_split(open_manifest(grown["manifest"]), "adapt")
    remaining = {split.names[row] for row in split.annotations.rows}
    assert remaining == {*one[2:], *two} & set(split.names)
    assert remaining
    again = sfda(*ask, "--budget", 1000, "--out", home.path / "rest").json
    assert not set(again["wanted"]) & {*one[2:], *two}
    assert sfda("check", again["manifest"], "--json").json["ok"]
