"""Exports that are nearly right: names of other pictures, broken files, shapes of another kind."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small
import small_det
import small_pose
import small_seg
import yaml
from asking import coco, exported, least, request_for, xml
from PIL import Image

from sfda.annotation.exports import read_export
from sfda.annotation.take import take_annotations
from sfda.authoring.from_folder import build_manifest
from sfda.errors import BadInput
from sfda.formats.coco_rle import decode_run_lengths, fill_polygons, unpack_run_lengths
from sfda.formats.request import RequestedNames, RequestedRow
from sfda.manifests.opening import open_manifest
from sfda.manifests.rows import read_split
from sfda.manifests.verify import verify_manifest


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """Pictures whose names differ in their folders alone."""
    for name in ("x/a.png", "y/a.png", "x/b.png", "a.png", "c.png"):
        (tmp_path / "site" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "site" / name)
    return build_manifest(
        tmp_path / "site", problem="classification", classes=small.CLASSES,
        out=tmp_path / "site.yaml",
    )  # fmt: skip


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    return small_seg.write(tmp_path, "target", small_seg.TARGET, seed=3, dull=True)


@pytest.fixture
def boxed(tmp_path: Path) -> Path:
    return small_det.write(tmp_path, "target", small_det.TARGET, seed=3)


@pytest.fixture
def posed(tmp_path: Path) -> Path:
    return small_pose.write(tmp_path, "target", small_pose.TARGET)


def ask(target: Path, keys: list[str], folder: Path) -> Path:
    names = read_split(open_manifest(target), "adapt").names
    request_for(target, [names.index(key) for key in keys], folder, copied=False)
    return folder


def table(folder: Path, text: str) -> Path:
    out = folder / "filled.csv"
    out.write_text("file,class\n" + text)
    return out


def labels(manifest: Path) -> dict[str, str]:
    split = read_split(open_manifest(manifest), "adapt")
    result = split.annotations
    assert result is not None
    return {
        split.names[row]: result.classes[label]
        for row, label in zip(result.rows, result.labels, strict=True)
    }


def refused(folder: Path, answers: Path, target: Path, output: str) -> None:
    """Nothing is taken, and the message says so."""
    before = sorted(p.name for p in target.parent.iterdir())
    with pytest.raises(BadInput, match=output):
        take_annotations(folder, answers, target)
    assert sorted(p.name for p in target.parent.iterdir()) == before


def test_a_picture_that_shares_its_name_is_another_picture(tmp_path: Path, site: Path) -> None:
    folder = ask(site, ["x/a.png", "c.png"], tmp_path / "ask")
    refused(folder, table(folder, "y/a.png,bar\n"), site, "never asked for: y/a.png")
    refused(folder, table(folder, "a.png,bar\n"), site, "never asked for: a.png")
    folder = ask(site, ["a.png", "x/a.png", "y/a.png"], tmp_path / "both")
    result = take_annotations(
        folder, table(folder, "y/a.png,bar\na.png,post\nx/a.png,cross\n"), site
    )
    assert labels(result.manifest) == {"a.png": "post", "x/a.png": "cross", "y/a.png": "bar"}


def wanted(row: str, key: str) -> RequestedRow:
    return RequestedRow(row=row, key=key, file=key, height=8, width=8, confidence=0.5)


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("x/a.png", "1"),
        ("upload/7/x/a.png", "1"),  # the longest end
        ("upload/a.png", "0"),
        ("b.png", "2"),
        ("d.png", "34"),  # no one knows which
        ("z/b.png", ""),
        ("other.png", ""),
        ("", ""),
        (None, ""),
        ("/", ""),
    ],
)
def test_names_with_more_or_fewer_folders(name: str | None, rows: str) -> None:
    keys = ["a.png", "x/a.png", "x/b.png", "x/d.png", "y/d.png"]
    asked = RequestedNames(
        [wanted(str(n), key) for n, key in enumerate(keys)], ["other.png", "a.png"]
    )
    assert "".join(w.row for w in asked.rows(name)) == rows


def test_a_name_that_several_pictures_end_in_is_refused(tmp_path: Path, site: Path) -> None:
    (tmp_path / "site" / "a.png").unlink()
    site.unlink()
    site.with_suffix(".rows.csv").unlink()
    again = build_manifest(
        tmp_path / "site", problem="classification", classes=small.CLASSES, out=site
    )
    folder = ask(again, ["x/a.png", "y/a.png"], tmp_path / "ask")
    output = r"names that several pictures end in: a.png \(x/a.png, y/a.png\)"
    refused(folder, table(folder, "a.png,bar\n"), again, output)


def test_run_lengths_are_those_of_the_picture() -> None:
    mask = np.zeros((3, 4), bool)
    mask[1:, 1] = mask[0, 3] = True
    runs = [4, 2, 3, 1, 2]
    assert np.array_equal(decode_run_lengths(runs, (3, 4)), mask)
    assert decode_run_lengths([12], (3, 4)).sum() == 0
    for counts in ([5, 7.0], [5, -1, 8], [5, 6], [5, 8], ["a"], "5", b"\xff", 5, None):
        with pytest.raises((ValueError, TypeError)):
            decode_run_lengths(counts, (3, 4))
    with pytest.raises(ValueError, match="end too early"):
        unpack_run_lengths("5P")


@pytest.mark.parametrize(
    "polygons",
    [
        [[1, 2]],
        "abc",
        [[0, 0, 1, 1, float("nan"), 2]],
        [[0, 0, 1e9, 0, 5, 5]],
        [[1] * 7],
        [["a"] * 6],
    ],
)
def test_polygons_that_are_none_are_refused(polygons: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        fill_polygons(polygons, (8, 8))
    assert fill_polygons([[0, 0, 4, 0, 4, 4, 0, 4]], (8, 8)).sum() == 16


def test_run_lengths_that_end_early_are_no_mask(tmp_path: Path, scenes: Path) -> None:
    folder = tmp_path / "ask"
    request_for(scenes, [5], folder)
    document = json.loads((folder / "cvat_coco.json").read_text())
    part = document["annotations"][0]
    answers = folder / "coco.json"
    for segmentation in (
        {"size": [32, 32], "counts": [5, 7]},
        {"size": [32, 32], "counts": "57"},
        {"size": [4, 3], "counts": [5, 7]},
        [[float("nan")] * 6],
    ):
        document["annotations"] = [part | {"segmentation": segmentation}]
        answers.write_text(json.dumps(document))
        refused(folder, answers, scenes, "its annotation cannot be read")


@pytest.mark.parametrize(
    "value",
    [
        {"labels": ["disc"], "x": 1, "y": 1, "width": 9, "height": 9},
        {"x": 1, "y": 1, "width": 9, "height": 9},
        {"choices": ["disc"]},
        {"keypointlabels": ["disc"], "x": 1, "y": 1},
        {"polygonlabels": ["disc"], "points": [[0, 0], [9, 0], [9, 9]]},
    ],
)
def test_something_else_is_not_an_image_without_boxes(
    tmp_path: Path, boxed: Path, value: dict[str, Any]
) -> None:
    folder = tmp_path / "ask"
    request_for(boxed, [5], folder)
    size = {"original_width": 64, "original_height": 64}

    def other(tasks: list[Any]) -> list[Any]:
        tasks[0]["annotations"][0]["result"] = [{"value": value, **size}]
        return tasks

    output = "cannot be read|something else where boxes|masks or polygons where boxes"
    refused(folder, exported(folder, other), boxed, output)


def test_a_remark_beside_boxes_says_nothing(tmp_path: Path, boxed: Path) -> None:
    folder = tmp_path / "ask"
    request_for(boxed, [5], folder)

    def remark(tasks: list[Any]) -> list[Any]:
        tasks[0]["annotations"][0]["result"].append({"value": {"text": ["blurred"]}})
        return tasks

    assert take_annotations(folder, exported(folder, remark), boxed).annotated == 1


@pytest.mark.parametrize("export", [exported, least, coco, xml])
@pytest.mark.parametrize("kind", ["boxed", "posed"])
def test_pictures_of_another_size_are_refused(
    tmp_path: Path, request: pytest.FixtureRequest, kind: str, export: Any
) -> None:
    target = request.getfixturevalue(kind)
    folder = tmp_path / "ask"
    asked = request_for(target, [5], folder, copied=False)
    height, width = asked.requested[0].height, asked.requested[0].width
    answers = export(folder)
    if answers.suffix == ".zip":
        with zipfile.ZipFile(answers) as archive:
            name = next(n for n in archive.namelist() if not n.endswith(".png"))
            text = archive.read(name).decode()
    else:
        name, text = answers.name, answers.read_text()
    for key, value in (("width", width), ("height", height)):
        text = text.replace(f'original_{key}": {value}', f'original_{key}": {value // 2}')
        text = text.replace(f'"{key}": {value},', f'"{key}": {value // 2},', 1)
        text = text.replace(f' {key}="{value}"', f' {key}="{value // 2}"')
    smaller = folder / ("smaller" + Path(name).suffix)
    smaller.write_text(text)
    output = f"of another size than its image: .*{height // 2}.*, not {width} x {height}"
    refused(folder, smaller, target, output)


def test_a_person_without_joints_is_no_answer(tmp_path: Path, posed: Path) -> None:
    folder = tmp_path / "ask"
    request_for(posed, [5, 2], folder, copied=False)
    document = json.loads((folder / "cvat_coco.json").read_text())
    bare = json.loads(json.dumps(document["annotations"][0]))
    bare |= {"keypoints": [0] * len(bare["keypoints"]), "num_keypoints": 0}
    for image in document["images"]:
        image.pop("row")
    answers = folder / "coco.json"
    answers.write_text(json.dumps(document | {"annotations": [*document["annotations"], bare]}))
    assert take_annotations(folder, answers, posed).annotated == 2
    (second, _) = document["annotations"][1], document["annotations"].clear()
    answers.write_text(json.dumps(document | {"annotations": [bare, second]}))
    out = tmp_path / "other.yaml"
    assert take_annotations(folder, answers, posed, out=out).annotated == 1


def test_json_min_says_who_handed_it_in(tmp_path: Path, boxed: Path) -> None:
    folder = tmp_path / "ask"
    request_for(boxed, [5, 2], folder)
    rows = json.loads(least(folder).read_text())
    rows[0].pop("box")
    answers = folder / "some.json"
    answers.write_text(json.dumps(rows))
    assert take_annotations(folder, answers, boxed, out=tmp_path / "one.yaml").annotated == 1
    inputs = [row | {"annotation_id": n} for n, row in enumerate([*rows, rows[1]])]
    answers.write_text(json.dumps(inputs))
    result = take_annotations(folder, answers, boxed, out=tmp_path / "two.yaml")
    assert result.annotated == 2, "one without boxes, and one that two persons agree on"
    inputs[2]["box"] = [dict(inputs[2]["box"][0], x=1.25)]
    answers.write_text(json.dumps(inputs))
    refused(folder, answers, boxed, "2 annotations that disagree")


BROKEN = {
    "empty.csv": b"",
    "parts.json": b'{"images": [], "categories": [], "annotations": [5]}',
    "number.json": b'{"images": [], "categories": [], "annotations": 5}',
    "tasks.json": b'[{"id": 1, "data": {"row": "a"}, "annotations": [5]}]',
    "task.json": b'[{"id": 1, "annotations": 5}]',
    "least.json": b'[{"row": "a", "box": [5], "annotation_id": 1}]',
    "row.json": b'{"images": [{"id": 1, "file_name": "a", "row": [5], "height": 9, "width": 9}],'
    b' "categories": [], "annotations": []}',
    "none.json": b"",
    "odd.xml": b"<annotations><image/></annotations>",
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_told_in_one_message(tmp_path: Path, site: Path, name: str) -> None:
    folder = ask(site, ["c.png"], tmp_path / "ask")
    (folder / name).write_bytes(BROKEN[name])
    refused(folder, folder / name, site, name)


@pytest.mark.parametrize("fault", ["flipped", "encrypted", "method"])
def test_broken_zips_are_told(tmp_path: Path, fault: str) -> None:
    path = tmp_path / "export.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.json", json.dumps([{"id": n, "row": str(n)} for n in range(999)]))
    raw = bytearray(path.read_bytes())
    central = raw.index(b"PK\x01\x02")
    if fault == "flipped":
        raw[60:90] = b"\xff" * 30
    elif fault == "encrypted":
        raw[6] |= 1
        raw[central + 8] |= 1
    else:
        raw[8] = raw[central + 10] = 99
    path.write_bytes(raw)
    with pytest.raises(BadInput, match=r"export\.zip"):
        read_export(path)


def test_answers_of_every_split_go_to_another_folder(tmp_path: Path, boxed: Path) -> None:
    """Also where the manifest says where its images lie, and another row file is there already."""
    request_for(boxed, [5], tmp_path / "ask")
    first = take_annotations(tmp_path / "ask", exported(tmp_path / "ask"), boxed).manifest
    request_for(first, [2], tmp_path / "more", split="test")
    there = tmp_path / "there"
    there.mkdir()
    row_file = yaml.safe_load(boxed.read_text())["splits"]["adapt"]["rows"]
    (there / row_file).write_text("another's")
    out = there / "both.yaml"
    request = json.loads((tmp_path / "more" / "request.json").read_text())
    names = read_split(open_manifest(first), "test")
    one = request["wanted"][0]
    one |= {"row": names.row_ids[2], "key": names.names[2], "file": names.names[2]}
    (tmp_path / "more" / "request.json").write_text(json.dumps(request))
    answers = tmp_path / "more" / "empty.json"
    answers.write_text(json.dumps([{"data": {"row": one["row"]}, "annotations": [{"result": []}]}]))
    results = take_annotations(tmp_path / "more", answers, first, out=out)
    assert results.total == 1
    assert (there / row_file).read_text() == "another's"
    assert verify_manifest(out).ok
    adapt, test = (read_split(open_manifest(out), name).annotations for name in ("adapt", "test"))
    assert adapt is not None
    assert test is not None
    assert (adapt.rows.tolist(), test.rows.tolist()) == ([5], [2])
    beside = take_annotations(
        tmp_path / "more", answers, first, out=tmp_path / "beside.yaml"
    ).manifest
    adapt, test = (
        read_split(open_manifest(beside), name).annotations for name in ("adapt", "test")
    )
    assert (adapt.rows.tolist(), test.rows.tolist()) == ([5], [2])


def test_an_absolute_root_is_told_as_seen_from_the_new_folder(
    tmp_path: Path, site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SFDA_HOME", str(tmp_path / "home"))
    own = tmp_path / "home" / "targets" / "site.yaml"
    own.parent.mkdir(parents=True)
    document = yaml.safe_load(site.read_text()) | {"root": str(tmp_path / "site")}
    for spec in document["splits"].values():
        (own.parent / spec["rows"]).write_bytes((site.parent / spec["rows"]).read_bytes())
    own.write_text(yaml.safe_dump(document))
    folder = ask(own, ["c.png"], tmp_path / "ask")
    out = tmp_path / "elsewhere" / "site.yaml"
    result = take_annotations(folder, table(folder, "c.png,bar\n"), own, out=out)
    assert labels(result.manifest) == {"c.png": "bar"}
    assert verify_manifest(out).ok
