"""Boxes and joints from a request through people's tools back to a manifest."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small
import small_det
import small_pose
import yaml
from asking import coco, exported, filled, least, request_for, xml
from PIL import Image

from sfda.annotation.take import take_annotations
from sfda.demo import figures
from sfda.errors import BadInput
from sfda.manifests.opening import open_manifest
from sfda.manifests.rows import read_split, unlabelled_digest
from sfda.manifests.verify import verify_manifest


@pytest.fixture
def boxed(tmp_path: Path) -> Path:
    return small_det.write(tmp_path, "target", small_det.TARGET, seed=3)


@pytest.fixture
def posed(tmp_path: Path) -> Path:
    return small_pose.write(tmp_path, "target", small_pose.TARGET)


@pytest.fixture
def crowd(tmp_path: Path) -> Path:
    """Two persons side by side in every picture, their boxes apart."""
    folder = tmp_path / "crowd"
    folder.mkdir()
    images, annotations = [], []
    for n in range(4):
        two = [figures.in_the_gym(2 * n + k) for k in (0, 1)]
        Image.fromarray(np.hstack([f.image for f in two])).save(folder / f"{n}.png")
        images.append({"id": n, "file_name": f"{n}.png", "split": "adapt"})
        for k, figure in enumerate(two):
            flat = [float(v) for x, y in figure.joints for v in (x + 64 * k, y, 2)]
            annotations.append(
                {"id": 2 * n + k, "image_id": n, "category_id": 1, "keypoints": flat,
                 "bbox": [2 + 64 * k, 2, 60, 60]}
            )  # fmt: skip
    table = tmp_path / "crowd.json"
    category = {"id": 1, "name": "figure", "keypoints": list(figures.JOINTS)}
    table.write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": [category]})
    )
    path = tmp_path / "crowd.yaml"
    path.write_text(
        yaml.safe_dump(
            {"name": "toy/crowd", "problem": "pose", "origin": "made by a test", "root": "./crowd",
             "classes": list(figures.JOINTS), "padding": 1.1,
             "splits": {"adapt": {"rows": table.name, "sha256": small.sha256(table),
                                  "where": "adapt", "count": 8}}}
        )
    )  # fmt: skip
    return path


def answers_of(manifest: Path) -> Any:
    """The answers, and the labels that nobody may see."""
    result = read_split(open_manifest(manifest), "adapt")
    hidden = read_split(open_manifest(manifest).unlabelled(), "adapt")
    assert hidden.labels is None
    assert hidden.labels is None
    assert hidden.annotations is not None
    return hidden.annotations, result


FORMATS = [exported, least, coco, xml, filled]


@pytest.mark.parametrize("export", FORMATS)
def test_boxes_come_back(tmp_path: Path, boxed: Path, export: Callable[[Path], Path]) -> None:
    folder = tmp_path / "ask"
    request_for(boxed, [5, 2], folder)
    result = take_annotations(folder, export(folder), boxed)
    answers, split = answers_of(result.manifest)
    assert answers.rows.tolist() == [5, 2]
    for n, row in enumerate((5, 2)):
        np.testing.assert_allclose(answers.labels[n].boxes, split.labels[row].boxes, atol=0.01)
        assert answers.labels[n].labels.tolist() == split.labels[row].labels.tolist()
        assert len(answers.labels[n].labels)
    assert verify_manifest(result.manifest).ok


@pytest.mark.parametrize("export", FORMATS)
@pytest.mark.parametrize("copied", [False, True])
def test_joints_come_back(
    tmp_path: Path, posed: Path, export: Callable[[Path], Path], copied: bool
) -> None:
    folder = tmp_path / "ask"
    request = request_for(posed, [5, 2], folder, copied=copied)
    assert request.requested[0].corner == ((-1, -1) if copied else (0, 0))
    assert request.requested[0].height == (66 if copied else 64)
    result = take_annotations(folder, export(folder), posed)
    answers, split = answers_of(result.manifest)
    assert answers.rows.tolist() == [5, 2]
    for n, row in enumerate((5, 2)):
        np.testing.assert_allclose(answers.labels[n].joints, split.labels[row].joints, atol=0.01)
        assert answers.labels[n].visible.all()
    assert verify_manifest(result.manifest).ok


@pytest.mark.parametrize("export", FORMATS)
def test_persons_of_one_picture_are_told_apart(
    tmp_path: Path, crowd: Path, export: Callable[[Path], Path]
) -> None:
    folder = tmp_path / "ask"
    request = request_for(crowd, [3, 0, 2], folder)
    assert [w.key for w in request.requested] == ["1.png@2", "0.png@1", "1.png@1"]
    document = json.loads((folder / "cvat_coco.json").read_text())
    assert [image["file_name"] for image in document["images"]] == ["1.png", "0.png"]
    document["annotations"].reverse()  # nobody keeps an order
    (folder / "cvat_coco.json").write_text(json.dumps(document))
    result = take_annotations(folder, export(folder), crowd)
    answers, split = answers_of(result.manifest)
    assert sorted(answers.rows.tolist()) == [0, 2, 3]
    for person, row in zip(answers.labels, answers.rows.tolist(), strict=True):
        np.testing.assert_allclose(person.joints, split.labels[row].joints, atol=0.01)


def test_a_person_nobody_asked_about_is_a_fault(tmp_path: Path, crowd: Path) -> None:
    folder = tmp_path / "ask"
    request_for(crowd, [3], folder)
    other = request_for(crowd, [2, 3], tmp_path / "both")
    assert len(other.requested) == 2
    with pytest.raises(BadInput, match=r"never asked for: 1\.png, person 1"):
        take_annotations(folder, coco(tmp_path / "both"), crowd)


def test_an_empty_picture_is_an_answer_only_if_somebody_says_so(
    tmp_path: Path, boxed: Path
) -> None:
    folder = tmp_path / "ask"
    request_for(boxed, [5, 2, 7], folder)

    def cleared(tasks: list[Any]) -> list[Any]:
        tasks[1]["annotations"][0]["result"] = []
        tasks[2]["annotations"][0] |= {"result": [], "was_cancelled": True}
        return tasks

    results = take_annotations(folder, exported(folder, cleared), boxed, out=tmp_path / "a.yaml")
    answers, _ = answers_of(results.manifest)
    assert answers.rows.tolist() == [5, 2], "handed in, and skipped"
    assert [len(part.labels) for part in answers.labels.table.rows] == [
        len(read_split(open_manifest(boxed), "adapt").labels[5].labels), 0
    ]  # fmt: skip
    document = json.loads((folder / "cvat_coco.json").read_text())
    document["annotations"] = [a for a in document["annotations"] if a["image_id"] == 1]
    (folder / "cvat_coco.json").write_text(json.dumps(document))
    for n, export in enumerate((coco, xml)):
        results = take_annotations(folder, export(folder), boxed, out=tmp_path / f"b{n}.yaml")
        assert (results.annotated, results.unmarked) == (1, 2)
        out = tmp_path / f"c{n}.yaml"
        results = take_annotations(folder, export(folder), boxed, out=out, empty=True)
        assert (results.annotated, results.unmarked) == (3, 0)
        answers, _ = answers_of(out)
        assert sorted(len(part.labels) for part in answers.labels.table.rows)[:2] == [0, 0]
    document["annotations"] = []
    (folder / "cvat_coco.json").write_text(json.dumps(document))
    with pytest.raises(BadInput, match="3 images have no box; if they hold none, say --empty"):
        take_annotations(folder, coco(folder), boxed, out=tmp_path / "d.yaml")


def test_earlier_answers_are_kept_and_the_target_stays_the_same(
    tmp_path: Path, boxed: Path, posed: Path
) -> None:
    for target, folder in ((boxed, "box"), (posed, "pose")):
        request_for(target, [5, 2], tmp_path / folder)
        first = take_annotations(tmp_path / folder, exported(tmp_path / folder), target)
        again = tmp_path / f"{folder}-again"
        request_for(first.manifest, [7], again)
        out = tmp_path / "elsewhere" / f"{folder}.yaml"
        second = take_annotations(again, exported(again), first.manifest, out=out)
        answers, _ = answers_of(second.manifest)
        assert answers.rows.tolist() == [5, 2, 7]
        assert second.total == 3
        manifest = open_manifest(second.manifest)
        assert unlabelled_digest(manifest, "adapt") == unlabelled_digest(
            open_manifest(target), "adapt"
        )
        with pytest.raises(BadInput, match="answered already"):
            take_annotations(again, exported(again), second.manifest)
        first.manifest.unlink()


def test_faulty_boxes_are_named_at_once(tmp_path: Path, boxed: Path) -> None:
    folder = tmp_path / "ask"
    request_for(boxed, [0, 1, 2, 3, 4, 5], folder)

    def spoil(tasks: list[Any]) -> list[Any]:
        value = [task["annotations"][0]["result"][0]["value"] for task in tasks]
        value[0]["rectanglelabels"] = ["green"]
        value[1]["width"] = 0
        value[2] |= {"x": 120, "width": 20}
        value[3]["x"] = "left"
        tasks[4]["annotations"][0]["result"] = [
            {"type": "polygonlabels", "original_width": 64, "original_height": 64,
             "value": {"points": [[0, 0], [9, 0], [9, 9]], "polygonlabels": ["red"]}}
        ]  # fmt: skip
        return [*tasks, json.loads(json.dumps(tasks[5]))]

    with pytest.raises(BadInput) as error:
        take_annotations(folder, exported(folder, spoil), boxed)
    for part in (
        "unknown class (known: red, blue): 000.png (green)",
        "without an area, or outside of their image: 001.png, 002.png",
        "unusable: 003.png: its result cannot be read",
        "masks or polygons where boxes are wanted: 004.png", "answered twice: 005.png",
        "nothing was taken",
    ):  # fmt: skip
        assert part in str(error.value), part
    assert not list(tmp_path.glob("target.v2*"))


def test_faulty_joints_are_named_at_once(tmp_path: Path, posed: Path) -> None:
    folder = tmp_path / "ask"
    request_for(posed, [0, 1, 2, 3], folder)

    def spoil(tasks: list[Any]) -> list[Any]:
        dots = [task["annotations"][0]["result"] for task in tasks]
        dots[0][1]["value"]["keypointlabels"] = ["tail"]
        dots[1].append(json.loads(json.dumps(dots[1][1])))
        dots[2][1]["value"]["x"] = 101.0
        del dots[3][1:4]
        return tasks

    with pytest.raises(BadInput) as error:
        take_annotations(folder, exported(folder, spoil), posed)
    for part in (
        "000.png@1 (tail)", f"joints placed twice: 001.png@1 ({figures.JOINTS[0]})",
        f"outside of their picture: 002.png@1 ({figures.JOINTS[0]})",
    ):  # fmt: skip
        assert part in str(error.value), part

    def few(tasks: list[Any]) -> list[Any]:
        return spoil(tasks)[3:]

    results = take_annotations(folder, exported(folder, few), posed)
    answers, _ = answers_of(results.manifest)
    assert answers.labels[0].visible.tolist() == [0.0] * 3 + [1.0] * (len(figures.JOINTS) - 3)


def test_a_turned_box_becomes_what_surrounds_it(tmp_path: Path, boxed: Path) -> None:
    folder = tmp_path / "ask"
    request_for(boxed, [5], folder)

    def turned(tasks: list[Any]) -> list[Any]:
        value = {"x": 50, "y": 25, "width": 25, "height": 12.5, "rotation": 90}
        tasks[0]["annotations"][0]["result"] = [
            {"type": "rectanglelabels", "original_width": 64, "original_height": 64,
             "value": value | {"rectanglelabels": ["blue"]}}
        ]  # fmt: skip
        return tasks

    results = take_annotations(folder, exported(folder, turned), boxed)
    answers, _ = answers_of(results.manifest)
    np.testing.assert_allclose(answers.labels[0].boxes, [[24, 16, 32, 32]], atol=1e-4)
    image = '<image id="0" name="005.png" width="64" height="64">'
    about = '<box label="red" rotation="90" xtl="20" ytl="24" xbr="40" ybr="32"/>'
    answer = folder / "a.xml"
    answer.write_text(f"<annotations>{image}{about}</image></annotations>")
    results = take_annotations(folder, answer, boxed, out=tmp_path / "other.yaml")
    answers, _ = answers_of(results.manifest)
    np.testing.assert_allclose(answers.labels[0].boxes, [[26, 18, 34, 38]], atol=1e-4)


def test_a_changed_file_of_answers_is_found_out(tmp_path: Path, boxed: Path, posed: Path) -> None:
    for target, folder in ((boxed, "box"), (posed, "pose")):
        request_for(target, [5, 2], tmp_path / folder)
        out = tmp_path / f"{folder}.yaml"
        take_annotations(tmp_path / folder, exported(tmp_path / folder), target, out=out)
        table = out.with_suffix(".answers.json")
        document = json.loads(table.read_text())
        document["images"][0]["file_name"] = "nobody.png"
        table.write_text(json.dumps(document))
        assert any("other sha256" in fault for fault in verify_manifest(out).faults)
        manifest = yaml.safe_load(out.read_text())
        manifest["splits"]["adapt"]["answers"]["sha256"] = small.sha256(table)
        out.write_text(yaml.safe_dump(manifest))
        assert any(
            "rows that the split lacks: nobody.png" in f for f in verify_manifest(out).faults
        )


def test_requests_name_what_is_seen(tmp_path: Path, boxed: Path) -> None:
    folder = tmp_path / "ask"
    request_for(boxed, [5], folder)
    tasks = json.loads((folder / "label_studio.json").read_text())
    (result, *_) = tasks[0]["predictions"][0]["result"]
    truth = read_split(open_manifest(boxed), "adapt").labels[5].boxes[0] / 64 * 100
    value = result["value"]
    assert [value["x"], value["y"]] == pytest.approx(truth[:2].tolist())
    assert value["width"] == pytest.approx(float(truth[2] - truth[0]))
    assert result["score"] == 0.5


def test_persons_who_disagree_about_boxes_are_named(tmp_path: Path, boxed: Path) -> None:
    folder = tmp_path / "ask"
    request_for(boxed, [5, 2, 7], folder)

    def twice(tasks: list[Any]) -> list[Any]:
        tasks[0]["annotations"].append({"result": []})
        moved = json.loads(json.dumps(tasks[1]["annotations"][0]))
        moved["result"][0]["value"]["x"] += 1
        tasks[1]["annotations"].append(moved)
        tasks[2]["annotations"].append(json.loads(json.dumps(tasks[2]["annotations"][0])))
        return tasks

    with pytest.raises(BadInput) as error:
        take_annotations(folder, exported(folder, twice), boxed)
    assert "annotations that disagree: 005.png (boxes, and none at all)" in str(error.value)
    assert "002.png: 2 annotations that disagree" in str(error.value)
    assert "007.png" not in str(error.value)


def test_a_fault_of_a_picture_is_one_of_all_its_persons(tmp_path: Path, crowd: Path) -> None:
    folder = tmp_path / "ask"
    request_for(crowd, [2, 3, 0], folder)
    export = folder / "annotations.xml"
    export.write_text(
        '<annotations><image name="1.png" width="128" height="64"><cuboid label="person"/>'
        '</image><image name="0.png" width="128" height="64"></image></annotations>'
    )
    with pytest.raises(BadInput, match=r"unusable: 1\.png@1: .*; nothing was taken") as error:
        take_annotations(folder, export, crowd)
    assert "1.png@2: it cannot be read" in str(error.value)
