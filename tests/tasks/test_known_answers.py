"""A target that is made anew keeps what people have answered about its images."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest
import small
import small_det
import small_pose
import small_seg
import yaml
from asking import exported, request_for
from PIL import Image

from sfda.adaptation.target import as_manifest
from sfda.annotation import carry_over
from sfda.annotation.take import take_annotations
from sfda.authoring.from_folder import build_manifest
from sfda.manifests.opening import open_manifest
from sfda.manifests.rows import read_split
from sfda.manifests.verify import verify_manifest
from sfda.problems.detection.labels import BoxSets
from sfda.problems.pose.labels import JointSets
from sfda.problems.segmentation.labels import MaskLabels

MAKERS = {
    "segmentation": lambda folder: small_seg.write(
        folder, "target", small_seg.TARGET, seed=3, dull=True
    ),
    "detection": lambda folder: small_det.write(folder, "target", small_det.TARGET, seed=3),
    "pose": lambda folder: small_pose.write(folder, "target", small_pose.TARGET),
}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SFDA_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("SFDA_DATA", raising=False)
    return tmp_path / "home"


def answered(target: Path, rows: list[int], folder: Path, out: Path | None = None) -> Path:
    request_for(target, rows, folder)
    result = take_annotations(folder, exported(folder), target, out=out).manifest
    carry_over.note_annotations(result)
    return result


def again(target: Path, name: str) -> Path:
    """Another manifest of the same images, without answers."""
    document = yaml.safe_load(target.read_text())
    document["splits"]["adapt"].pop("answers", None)
    other = target.with_name(name)
    other.write_text(yaml.safe_dump(document))
    return other


def content(manifest: Path) -> dict[int, Any]:
    """What was answered, by row."""
    result = read_split(open_manifest(manifest), "adapt").annotations
    assert result is not None
    labels: Any = result.labels
    if isinstance(labels, MaskLabels):
        own = [labels.mask(n).tolist() for n in range(len(labels))]
    elif isinstance(labels, BoxSets):
        own = [part.boxes.tolist() for part in labels.table.rows]
    elif isinstance(labels, JointSets):
        own = [person.joints.tolist() for person in labels.persons]
    else:
        own = labels.index.tolist()
    return dict(zip(result.rows.tolist(), own, strict=True))


@pytest.mark.parametrize("problem", MAKERS)
def test_answers_of_every_problem_are_put_into_a_new_manifest(
    home: Path, tmp_path: Path, problem: str
) -> None:
    target = MAKERS[problem](tmp_path)
    first = answered(target, [5, 2], tmp_path / "ask1")
    second = answered(target, [7], tmp_path / "ask2", tmp_path / "other.yaml")
    expected = content(first) | content(second)
    shutil.rmtree(tmp_path / "ask1")  # requests are not needed any more
    new = again(target, "new.yaml")
    assert carry_over.carry_annotations(new) == 3
    assert verify_manifest(new).ok
    assert content(new) == expected
    before = carry_over.known_digest(new)
    answered(target, [8], tmp_path / "ask3", tmp_path / "third.yaml")
    assert carry_over.known_digest(new) != before


def test_an_image_that_has_changed_has_no_answer(home: Path, tmp_path: Path) -> None:
    target = MAKERS["detection"](tmp_path)
    answered(target, [5, 2], tmp_path / "ask")
    Image.new("RGB", (64, 64)).save(tmp_path / "target" / "005.png")
    new = again(target, "new.yaml")
    assert carry_over.carry_annotations(new) == 1
    assert list(content(new)) == [2]


def test_what_is_lost_is_told_and_left_out(
    home: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    target = MAKERS["segmentation"](tmp_path)
    first = answered(target, [5, 2], tmp_path / "ask1")
    second = answered(target, [7], tmp_path / "ask2", tmp_path / "other.yaml")
    third = answered(target, [8], tmp_path / "ask3", tmp_path / "third.yaml")
    second.unlink()
    next(third.with_suffix(".masks").iterdir()).unlink()
    new = again(target, "new.yaml")
    assert carry_over.carry_annotations(new) == 2
    assert "no manifest at" in caplog.text
    assert "masks that were answered are missing" in caplog.text
    first.with_suffix(".answers.csv").write_text("file,mask\n")
    assert carry_over.carry_annotations(again(target, "newer.yaml")) == 0
    assert "not the one that was written" in caplog.text


def test_nothing_is_known_of_other_images(home: Path, tmp_path: Path) -> None:
    target = MAKERS["detection"](tmp_path)
    answered(target, [5], tmp_path / "ask")
    (tmp_path / "elsewhere").mkdir()
    other = small_det.write(tmp_path / "elsewhere", "target", small_det.TARGET, seed=3)
    assert carry_over.known_digest(other) is None
    assert carry_over.carry_annotations(other) == 0
    assert carry_over.newest_version(other) == 1
    assert carry_over.newest_version(tmp_path / "none.yaml") == 1


@pytest.mark.parametrize("packed", [False, True])
def test_a_folder_asked_about_again_is_the_next_version(
    home: Path, tmp_path: Path, packed: bool
) -> None:
    inputs = small.target_arrays()["x"][:9]
    folder = tmp_path / "site"
    folder.mkdir()
    for n, image in enumerate(inputs):
        Image.fromarray(image).save(folder / f"{n}.png")
    if packed:
        with zipfile.ZipFile(tmp_path / "site.zip", "w") as archive:
            for file in sorted(folder.iterdir()):
                archive.write(file, file.name)
        first = build_manifest(
            tmp_path / "site.zip", problem="classification", out=tmp_path / "site.yaml"
        )
    else:
        first = Path(as_manifest(str(folder), lambda: "classification"))
    classes = small.CLASSES
    document = yaml.safe_load(first.read_text()) | {"classes": list(classes)}
    first.write_text(yaml.safe_dump(document))
    one = answered(first, [3, 1], tmp_path / "ask1")
    if packed:
        new = build_manifest(
            tmp_path / "site.zip", problem="classification", out=tmp_path / "again.yaml"
        )
        assert carry_over.carry_annotations(new) == 2
        assert content(new) == content(one)
        return
    second = Path(as_manifest(str(folder), lambda: "classification"))
    assert second != first, "a job may still run with the first"
    assert open_manifest(second).version == 2
    assert content(second) == content(one)
    assert Path(as_manifest(str(folder), lambda: "classification")) == second
    document = yaml.safe_load(second.read_text()) | {"classes": list(classes)}
    second.write_text(yaml.safe_dump(document))
    two = answered(second, [4], tmp_path / "ask2")
    assert two.name.endswith(".v3.yaml")
    assert sorted(content(two)) == [1, 3, 4]
    known = json.loads(next((home / "answers").iterdir()).read_text())
    assert [Path(s["manifest"]) for s in known["sources"]] == [two], "it has the first's too"


@pytest.mark.parametrize("suffix", [".zip", ".npz"])
def test_other_images_in_an_archive_of_the_same_name_have_no_answers(
    home: Path, tmp_path: Path, suffix: str
) -> None:
    inputs = small.target_arrays()

    def made(images: Any) -> Path:
        if suffix == ".npz":
            return small.write(tmp_path, "target", inputs | {"x": images}, small.TARGET)
        with zipfile.ZipFile(tmp_path / "site.zip", "w") as archive:
            for n, image in enumerate(images[:9]):
                with archive.open(f"{n}.png", "w") as opened:
                    Image.fromarray(image).save(opened, "png")
        (tmp_path / "site.yaml").unlink(missing_ok=True)
        (tmp_path / "site.adapt.csv").unlink(missing_ok=True)
        return build_manifest(
            tmp_path / "site.zip", problem="classification", classes=small.CLASSES,
            out=tmp_path / "site.yaml",
        )  # fmt: skip

    answered(made(inputs["x"]), [3, 1], tmp_path / "ask", tmp_path / "answered.yaml")
    other = inputs["x"].copy()
    other[3] = 255 - other[3]
    new = made(other)
    assert carry_over.carry_annotations(new) == 1
    assert list(content(new)) == [1]


def test_answers_about_another_person_of_the_same_picture_are_kept(
    home: Path, tmp_path: Path
) -> None:
    target = MAKERS["pose"](tmp_path)
    document = json.loads((tmp_path / "target.json").read_text())
    for annotation in document["annotations"]:  # all persons are in one picture
        annotation["image_id"] = document["images"][0]["id"]
    (tmp_path / "target.json").write_text(json.dumps(document))
    manifest = yaml.safe_load(target.read_text())
    rows = {"sha256": small.sha256(tmp_path / "target.json"), "count": len(document["annotations"])}
    split = manifest["splits"]["adapt"] | rows
    target.write_text(yaml.safe_dump(manifest | {"splits": {"adapt": split}}))
    one = answered(target, [2], tmp_path / "ask1", tmp_path / "one.yaml")
    two = answered(target, [4], tmp_path / "ask2", tmp_path / "two.yaml")
    new = again(target, "new.yaml")
    assert carry_over.carry_annotations(new) == 2
    assert content(new) == content(one) | content(two)


def test_answers_of_both_splits_are_put_into_a_new_manifest(home: Path, tmp_path: Path) -> None:
    target = MAKERS["segmentation"](tmp_path)
    answered(target, [5, 2], tmp_path / "ask1", tmp_path / "one.yaml")
    folder = tmp_path / "ask2"
    request_for(target, [3], folder, split="test")
    test = read_split(open_manifest(target), "test")
    request = json.loads((folder / "request.json").read_text())
    request["wanted"][0] |= {"row": test.row_ids[3], "key": test.names[3]}
    tasks = json.loads((folder / "label_studio.json").read_text())
    tasks[0]["data"] |= {"row": test.row_ids[3], "file": test.names[3]}
    (folder / "request.json").write_text(json.dumps(request))
    (folder / "label_studio.json").write_text(json.dumps(tasks))
    out = tmp_path / "two.yaml"
    carry_over.note_annotations(
        take_annotations(folder, exported(folder), target, out=out).manifest
    )
    new = again(target, "new.yaml")
    assert carry_over.carry_annotations(new) == 3
    assert verify_manifest(new).ok
    splits = [read_split(open_manifest(new), name).annotations for name in ("adapt", "test")]
    assert [len(result.rows) for result in splits if result] == [2, 1]
