"""Exports of people's own projects: other addresses, relations, shapes of another kind, parts that
are missing; and what is said of images without an answer.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import small
import small_det
import small_pose
import small_seg
from asking import coco, exported, filled, least, request_for, xml
from PIL import Image

from sfda.annotation.exports import read_export
from sfda.annotation.take import take_annotations
from sfda.authoring.from_folder import build_manifest
from sfda.errors import BadInput
from sfda.formats.request import Request
from sfda.manifests.opening import open_manifest
from sfda.manifests.rows import read_split

PYTHONS = re.compile(r"argument|unpack|Error|literal|convert|object|NoneType|Traceback|expected")


@pytest.fixture
def boxed(tmp_path: Path) -> Path:
    return small_det.write(tmp_path, "target", small_det.TARGET, seed=3)


@pytest.fixture
def site(tmp_path: Path) -> Path:
    for name in ("disc/012.png", "square/013.png", "disc/006.png", "square/006.png"):
        (tmp_path / "site" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "site" / name)
    return build_manifest(
        tmp_path / "site", problem="classification", classes=small.CLASSES, out=tmp_path / "s.yaml"
    )


def boxes_of(manifest: Path) -> dict[str, Any]:
    split = read_split(open_manifest(manifest), "adapt")
    assert split.annotations is not None
    parts = split.annotations.labels
    return {
        split.names[row]: parts[at].boxes.tolist()
        for at, row in enumerate(split.annotations.rows.tolist())
    }


def edited(path: Path, change: Callable[[Any], None]) -> Path:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))
    return path


def test_relations_texts_and_ratings_mark_nothing(tmp_path: Path, boxed: Path) -> None:
    request_for(boxed, [5, 2], tmp_path / "ask")

    def more(tasks: Any) -> None:
        for task in tasks:
            task["annotations"][0]["result"] += [
                {"from_id": "a", "to_id": "b", "type": "relation", "direction": "right"},
                {"type": "relation", "from_id": "a", "to_id": "b", "labels": ["next"]},
                {"type": "rating", "from_name": "r", "to_name": "image", "value": {"rating": 3}},
                {"type": "textarea", "from_name": "t", "to_name": "image", "value": {"text": []}},
            ]

    plain = take_annotations(tmp_path / "ask", exported(tmp_path / "ask"), boxed)
    taken = take_annotations(
        tmp_path / "ask", edited(exported(tmp_path / "ask"), more), boxed, out=tmp_path / "o.yaml"
    )
    assert boxes_of(taken.manifest) == boxes_of(plain.manifest)


ADDRESSES = [
    "/data/local-files/?d={}",
    "/data/local-files/?d=my%20data/site/{}",
    "s3://bucket/site/{}",
    "gs://bucket/{}",
    "https://example.org/site/{}?token=a/b.png",
    "C:\\data\\site\\{}",
    "site/{}",
]


@pytest.mark.parametrize("key", ["image", "img", "url", "my picture"])
@pytest.mark.parametrize("address", ADDRESSES)
def test_tasks_of_an_own_project_are_known_by_the_address(
    tmp_path: Path, site: Path, address: str, key: str
) -> None:
    names = read_split(open_manifest(site), "adapt").names
    asked = ["disc/012.png", "square/013.png", "disc/006.png"]
    request_for(site, [names.index(n) for n in asked], tmp_path / "ask", copied=False)

    def own(tasks: Any) -> None:
        for task in tasks:
            name = task["data"]["file"].replace("/", "\\" if "\\" in address else "/")
            task["data"] = {"note": "a text", key: address.format(name)}

    export = edited(exported(tmp_path / "ask"), own)
    assert take_annotations(tmp_path / "ask", export, site).annotated == 3
    least = [
        {"id": n, key: address.format(name.replace("/", "\\" if "\\" in address else "/")),
         "class": small.CLASSES[0]}
        for n, name in enumerate(asked)
    ]  # fmt: skip
    export.write_text(json.dumps(least))
    taken = take_annotations(tmp_path / "ask", export, site, out=tmp_path / "least.yaml")
    assert taken.annotated == 3


def test_uploads_are_known_without_the_digits_that_label_studio_adds(
    tmp_path: Path, boxed: Path
) -> None:
    request_for(boxed, [5, 2], tmp_path / "ask")

    def own(tasks: Any) -> None:
        for task in tasks:
            task["data"] = {"image": f"/data/upload/3/0a1b2c3d-{task['data']['file']}"}

    taken = take_annotations(tmp_path / "ask", edited(exported(tmp_path / "ask"), own), boxed)
    assert sorted(boxes_of(taken.manifest)) == ["002.png", "005.png"]


@pytest.mark.parametrize("tag", ["label", "bbox", "my boxes"])
def test_tags_of_an_own_interface_are_read_in_json_min(
    tmp_path: Path, boxed: Path, tag: str
) -> None:
    request_for(boxed, [5, 2], tmp_path / "ask")
    plain = take_annotations(tmp_path / "ask", exported(tmp_path / "ask"), boxed)
    rows = json.loads(least(tmp_path / "ask").read_text())
    own = [{"image": f"/data/{r['file']}", "id": n, tag: r["box"]} for n, r in enumerate(rows)]
    (tmp_path / "own.json").write_text(json.dumps(own))
    taken = take_annotations(
        tmp_path / "ask", tmp_path / "own.json", boxed, out=tmp_path / "o.yaml"
    )
    assert boxes_of(taken.manifest) == boxes_of(plain.manifest)


@pytest.mark.parametrize("prefix", ["images\\", "C:\\Users\\me\\target\\", ".\\", "images/"])
@pytest.mark.parametrize("export", [coco, xml], ids=["coco", "xml"])
def test_paths_of_windows_are_paths(
    tmp_path: Path, boxed: Path, prefix: str, export: Callable[[Path], Path]
) -> None:
    folder = tmp_path / "ask"
    request_for(boxed, [5, 2], folder)
    inputs = json.loads((folder / "cvat_coco.json").read_text())
    for image in inputs["images"]:
        image["file_name"] = prefix + image["file_name"]
    (folder / "cvat_coco.json").write_text(json.dumps(inputs))
    assert take_annotations(folder, export(folder), boxed).annotated == 2


ODD_RESULTS: dict[str, tuple[dict[str, Any], str]] = {
    "no class": ({"rectanglelabels": []}, "a rectangle without a class: choose one"),
    "null": ({"rectanglelabels": None}, "a rectangle without a class: choose one"),
    "two": ({"rectanglelabels": ["a", "b"]}, "a rectangle of several classes: a, b"),
    "text": ({"x": "left"}, "'left' is no number"),
    "none": ({"x": None}, "a part of it is of another kind"),
    "list": ({"width": [1]}, "a part of it is of another kind"),
}


@pytest.mark.parametrize("kind", ODD_RESULTS)
def test_what_is_wrong_is_told_in_words_of_the_export(
    tmp_path: Path, boxed: Path, kind: str
) -> None:
    changes, fault = ODD_RESULTS[kind]
    request_for(boxed, [5, 2, 7], tmp_path / "ask")

    def spoil(tasks: Any) -> None:
        tasks[0]["annotations"][0]["result"][0]["value"] |= changes
        del tasks[1]["annotations"][0]["result"][0]["value"]["x"]
        del tasks[2]["annotations"][0]["result"][0]["original_width"]

    with pytest.raises(BadInput, match=f"unusable: 005.png: .*{fault}") as error:
        take_annotations(tmp_path / "ask", edited(exported(tmp_path / "ask"), spoil), boxed)
    text = str(error.value).partition(": ")[2]
    assert "002.png: its result cannot be read (it lacks 'x')" in text
    assert "007.png: its result cannot be read (it lacks 'original_width')" in text
    assert not PYTHONS.search(text), text


def test_every_line_of_a_csv_is_named_at_once(tmp_path: Path, boxed: Path) -> None:
    folder = tmp_path / "ask"
    request_for(boxed, [5, 2, 7], folder)
    table = filled(folder)
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    rows[0] |= {"x": "left", "y": ""}
    own = [row for row in rows if row["file"] == "002.png"]
    own[0]["width"] = "wide"
    rows.append({**rows[-1], "class": "cat"})
    rows.append({**rows[-1], "row": "", "file": "nobody.png"})
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=";")
        writer.writeheader()
        writer.writerows(rows)
    with pytest.raises(BadInput) as error:
        take_annotations(folder, table, boxed)
    text = str(error.value)
    for part in (
        "line 2: x is 'left', which is no number",
        "width is 'wide', which is no number",
        "unknown class",
        "never asked for: nobody.png",
    ):
        assert part in text
    assert not PYTHONS.search(text.partition("csv: ")[2])


def test_a_csv_of_a_spreadsheet_with_commas_in_numbers_is_read(tmp_path: Path, boxed: Path) -> None:
    folder = tmp_path / "ask"
    request_for(boxed, [5, 2], folder)
    plain = take_annotations(folder, filled(folder), boxed)
    with filled(folder).open(newline="") as file:
        rows = list(csv.reader(file))
    for row in rows[1:]:
        row[4:8] = [cell.replace(".", ",") for cell in row[4:8]]
    table = folder / "sheet.csv"
    table.write_bytes("\r\n".join(";".join(row) for row in rows).encode("utf-16"))
    taken = take_annotations(folder, table, boxed, out=tmp_path / "o.yaml")
    assert boxes_of(taken.manifest) == boxes_of(plain.manifest)


def rectangle(label: str, kind: str = "rectanglelabels") -> dict[str, Any]:
    return {
        "original_width": 48, "original_height": 40, "type": kind, "from_name": "x",
        "to_name": "image",
        "value": {"x": 10, "y": 10, "width": 40, "height": 40, "rotation": 0, kind: [label]},
    }  # fmt: skip


def sized(request: Request, tasks: Any, result: dict[str, Any]) -> None:
    for sample, task in zip(request.requested, tasks, strict=True):
        own = {**result, "original_width": sample.width, "original_height": sample.height}
        task["annotations"][0]["result"] = [own]


@pytest.mark.parametrize(
    ("write", "result", "fault"),
    [
        (small_seg, rectangle("disc"), "boxes or points where a mask is wanted; paint it"),
        (small_seg, rectangle("disc", "keypointlabels"), "boxes or points where a mask is wanted"),
        (small, rectangle("disc"), "shapes where a class of the whole image is wanted"),
        (small_pose, rectangle("disc"), "boxes or masks where joints are wanted"),
    ],
)
def test_shapes_of_another_kind_are_named(
    tmp_path: Path, site: Path, write: Any, result: dict[str, Any], fault: str
) -> None:
    if write is small:
        target = site
    elif write is small_seg:
        target = small_seg.write(tmp_path, "target", small_seg.TARGET, seed=3, dull=True)
    else:
        target = small_pose.write(tmp_path, "target", small_pose.TARGET)
    request = request_for(target, [0, 1, 2], tmp_path / "ask")
    export = edited(exported(tmp_path / "ask"), lambda tasks: sized(request, tasks, result))
    with pytest.raises(BadInput, match=fault):
        take_annotations(tmp_path / "ask", export, target)


def test_what_has_no_answer_is_told_and_may_come_later(tmp_path: Path, boxed: Path) -> None:
    folder = tmp_path / "ask"
    request_for(boxed, [5, 2, 7, 3], folder)

    def part(tasks: Any) -> None:
        del tasks[3]
        tasks[1]["annotations"][0]["was_cancelled"] = True
        tasks[2]["annotations"] = []

    taken = take_annotations(folder, edited(exported(folder), part), boxed)
    assert (taken.annotated, taken.requested) == (1, 4)
    assert taken.unanswered == (
        ("have nothing marked in the export, or were skipped", ("002.png", "007.png")),
        ("are not in the export", ("003.png",)),
    )
    with pytest.raises(BadInput, match=r"answered already in .*005\.png"):
        take_annotations(folder, edited(exported(folder), part), taken.manifest)

    def alter(tasks: Any) -> None:
        tasks[0]["annotations"][0]["result"][0]["value"]["width"] = 1

    with pytest.raises(BadInput, match=r"answered otherwise already in .*: 005\.png"):
        take_annotations(folder, edited(exported(folder), alter), taken.manifest)
    rest = take_annotations(folder, exported(folder), taken.manifest)
    assert (rest.annotated, rest.total, rest.unanswered) == (3, 4, ())
    whole = take_annotations(folder, exported(folder), boxed, out=tmp_path / "o.yaml")
    assert boxes_of(rest.manifest) == boxes_of(whole.manifest)


def test_masks_that_were_answered_are_known_again(tmp_path: Path) -> None:
    target = small_seg.write(tmp_path, "target", small_seg.TARGET, seed=3, dull=True)
    request_for(target, [0, 1, 2], tmp_path / "ask")
    few = take_annotations(
        tmp_path / "ask", edited(exported(tmp_path / "ask"), lambda tasks: tasks.pop()), target
    )
    rest = take_annotations(tmp_path / "ask", exported(tmp_path / "ask"), few.manifest)
    assert (few.annotated, rest.annotated, rest.total) == (2, 1, 3)


def test_an_export_without_sizes_names_its_images(tmp_path: Path) -> None:
    document = {
        "images": [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "b.png", "width": "x",
                    "height": 3}],
        "annotations": [], "categories": [],
    }  # fmt: skip
    (tmp_path / "a.json").write_text(json.dumps(document))
    one, two = read_export(tmp_path / "a.json")
    assert one.fault == "its size cannot be read (it lacks 'height')"
    assert two.fault == "its size cannot be read ('x' is no whole number)"
