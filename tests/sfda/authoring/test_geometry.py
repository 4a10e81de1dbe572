"""Boxes and joints that are not pixels of their image: counted, with what they look like."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from sfda.authoring.from_folder import build_manifest
from sfda.errors import BadInput
from sfda.formats.plausibility.boxes import BOX_FORMATS, box_concerns
from sfda.formats.plausibility.joints import JOINT_FORMATS
from sfda.formats.plausibility.rewriting import CoordinateFormats
from sfda.manifests.digests import file_digest
from sfda.manifests.opening import open_manifest
from sfda.manifests.rows import read_split
from sfda.manifests.verify import manifest_notes, verify_manifest

WIDTH, HEIGHT = 48, 40
BOXES = [[12, 9, 12, 12], [16, 13, 17, 17], [30, 14, 12, 12], [21, 24, 12, 15]]  # x, y, w, h
POSE = {"id": 1, "name": "person", "keypoints": ["nose", "chin"], "skeleton": [[1, 2]]}


def as_form(box: list[float], form: str) -> list[float]:
    """x, y, width and height written in another form."""
    x, y, w, h = box
    first = {"xywh": [x, y, w, h], "xyxy": [x, y, x + w, y + h],
             "cxcywh": [x + w / 2, y + h / 2, w, h]}[form.removesuffix("-shares")]  # fmt: skip
    return (np.array(first) / ([WIDTH, HEIGHT] * 2 if "share" in form else 1)).tolist()


def document(boxes: list[Any], *, sized: bool = True, **more: Any) -> dict[str, Any]:
    size = {"width": WIDTH, "height": HEIGHT} if sized else {}
    return {
        "images": [{"id": i, "file_name": f"{i}.png", **size} for i in range(4)],
        "annotations": [
            {"id": i + 1, "image_id": i % 4, "category_id": 1, "bbox": box}
            for i, box in enumerate(boxes)
        ],
        "categories": [{"id": 1, "name": "disc"}, {"id": 2, "name": "tri"}],
    } | more


def persons(form: str, box_form: str = "xywh", **more: Any) -> dict[str, Any]:
    parts = document([as_form(box, box_form) for box in BOXES], categories=[POSE])
    for entry, (x, y, w, h) in zip(parts["annotations"], BOXES, strict=True):
        joints = np.array([[0.3, 0.2], [0.6, 0.9]]) * (w, h)
        if not form.startswith("box"):
            joints += (x, y)
        if form.endswith("shares"):
            joints /= (w, h) if form.startswith("box") else (WIDTH, HEIGHT)
        entry["keypoints"] = np.column_stack([joints, [2, 1]]).ravel().tolist()
    return parts | more


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(4):
        Image.new("RGB", (WIDTH, HEIGHT)).save(folder / f"{i}.png")
    return folder


def made(images: Path, parts: dict[str, Any], problem: str = "detection", **formats: Any) -> Path:
    file = images.parent / "parts.json"
    file.write_text(json.dumps(parts))
    return build_manifest(
        images, problem=problem, out=images.parent / "m.yaml", annotations=file,
        formats=CoordinateFormats(**formats),
    )  # fmt: skip


def checked(images: Path, parts: dict[str, Any], problem: str = "detection") -> list[str]:
    """The faults of a manifest that somebody wrote by hand."""
    rows = images.parent / "rows.json"
    rows.write_text(json.dumps(parts))
    names = POSE["keypoints"] if problem == "pose" else ["disc", "tri"]
    split = {"rows": rows.name, "sha256": file_digest(rows), "count": 4}
    path = images.parent / "hand.yaml"
    path.write_text(yaml.safe_dump({
        "name": "hand", "problem": problem, "origin": "a test", "root": "./images",
        "classes": names, "splits": {"test": split},
    }))  # fmt: skip
    return verify_manifest(path).faults


@pytest.mark.parametrize("sized", [True, False])
@pytest.mark.parametrize("form", [form for form in BOX_FORMATS if form != "xywh"])
def test_boxes_in_another_form_are_named_and_the_remedy_works(
    images: Path, form: str, sized: bool
) -> None:
    parts = document([as_form(box, form) for box in BOXES], sized=sized)
    truth = made(images, document(BOXES))
    expected = [box.boxes for box in read_split(open_manifest(truth), "adapt").labels]  # type: ignore[union-attr, attr-defined]
    if form != "cxcywh":  # centres of so few boxes may be corners just as well
        words = "shares of the image" if "share" in form else "corners x1, y1, x2, y2"
        with pytest.raises(BadInput, match=words) as error:
            made(images, parts)
        assert "of 4 boxes" in str(error.value) or "all 4 boxes" in str(error.value)
        assert f"--box-format {form}" in str(error.value) or form == "cxcywh-shares"
        assert any(words in fault for fault in checked(images, parts))
    out = made(images, parts, boxes=form)
    rows = read_split(open_manifest(out), "adapt")
    assert [
        np.allclose(own.boxes, box, atol=1e-4)
        for own, box in zip(rows.labels, expected, strict=True)  # type: ignore[arg-type]
    ] == [True] * len(rows)
    assert verify_manifest(out).faults == []


def test_centres_are_told_by_what_reaches_out() -> None:
    rng = np.random.default_rng(3)
    boxes = [
        [x, y, w, h]
        for w, h in rng.uniform(4, 30, (40, 2))
        for x, y in [rng.uniform((0, 0), (WIDTH - w, HEIGHT - h))]
    ]
    sizes = {i: (float(WIDTH), float(HEIGHT)) for i in range(4)}
    right = document(boxes)["annotations"]
    assert box_concerns(right, sizes).faults == []
    centred = document([as_form(box, "cxcywh") for box in boxes])["annotations"]
    (fault,) = box_concerns(centred, sizes).faults
    assert "of 40 boxes reach beyond their images" in fault
    assert "--box-format cxcywh" in fault


@pytest.mark.parametrize("form", ["xyxy", "cxcywh"])
def test_polygons_beside_boxes_say_what_boxes_are(form: str) -> None:
    small = [[2, 2, 4, 4], [5, 3, 6, 6], [3, 6, 5, 4]]  # in any form within the image
    parts = document([as_form(box, form) for box in small])["annotations"]
    for entry, (x, y, w, h) in zip(parts, small, strict=True):
        entry["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    (fault,) = box_concerns(parts, dict.fromkeys(range(4), (48.0, 40.0))).faults
    assert f"--box-format {form}" in fault


def test_some_boxes_that_are_odd_are_notes_with_their_number(images: Path) -> None:
    boxes = [*BOXES, [40, 30, 20, 9], BOXES[0], [1, 1, 0.5, 3], [-9, 3, 20, 20]]
    parts = document(boxes)
    parts["annotations"].append({**parts["annotations"][1], "category_id": 2})
    parts["annotations"][0]["split"] = "x"
    out = made(images, parts)
    notes = " ".join(manifest_notes(open_manifest(out)))
    assert checked(images, parts) == []
    report = " ".join(verify_manifest(images.parent / "hand.yaml").notes)
    assert "1 images hold no box" not in report
    for text in (
        "2 of 9 boxes reach beyond their images by more than a pixel",
        "1 of 9 boxes are below one pixel wide or high",
        "1 boxes have several classes",
        "1 annotations have an id that another has",
    ):
        assert text in report
    assert "boxes reach beyond" in notes
    twice = document([*BOXES, *BOXES[:3]])["annotations"]
    for entry in twice:
        entry["image_id"] = 0
    assert "3 boxes are there twice" in box_concerns(twice, {}).notes[0]


@pytest.mark.parametrize("name", [None, "", "  ", [], {"a": 1}, True])
def test_a_category_without_a_name_is_named_by_its_id(images: Path, name: object) -> None:
    parts = document(BOXES, categories=[{"id": 1, "name": name}, {"id": 2, "name": "tri"}])
    with pytest.raises(BadInput, match="categories without a name: id 1"):
        made(images, parts)


@pytest.mark.parametrize("form", [form for form in JOINT_FORMATS if form != "pixels"])
def test_joints_in_another_form_are_named_and_the_remedy_works(images: Path, form: str) -> None:
    expected = read_split(open_manifest(made(images, persons("pixels"), "pose")), "adapt").labels
    parts = persons(form)
    words = {"shares": "shares of the image", "box-shares": "shares of the person's box"}
    fault = words.get(form, "if they were counted from its corner")
    with pytest.raises(BadInput, match=f"all 8 joints .*{fault}.*--joint-format {form} "):
        made(images, parts, "pose")
    assert any(fault in one for one in checked(images, parts, "pose"))
    out = made(images, parts, "pose", joints=form)
    rows = read_split(open_manifest(out), "adapt").labels
    assert expected is not None
    assert rows is not None
    for row in range(len(rows)):
        assert np.allclose(rows[row].joints, expected[row].joints, atol=1e-4)  # type: ignore[index]
    assert verify_manifest(out).faults == []


def test_persons_boxes_are_looked_at_as_well(images: Path) -> None:
    parts = persons("pixels", "xyxy")
    with pytest.raises(BadInput, match="--box-format xyxy"):
        made(images, parts, "pose")
    assert verify_manifest(made(images, parts, "pose", boxes="xyxy")).faults == []
    both = persons("shares", "xywh-shares")
    with pytest.raises(BadInput, match=r"--box-format xywh-shares.*--joint-format shares"):
        made(images, both, "pose")
    out = made(images, both, "pose", boxes="xywh-shares", joints="shares")
    assert verify_manifest(out).faults == []


def test_joints_outside_of_their_image_are_counted(images: Path) -> None:
    parts = persons("pixels")
    parts["annotations"][0]["keypoints"][:2] = [60, 9]
    parts["annotations"][1]["keypoints"][:2] = [9, -20]
    parts["annotations"][2]["keypoints"][2::3] = [0, 0]
    parts["annotations"][3]["keypoints"] = [1, 1, 2, 2, 2, 2]
    assert checked(images, parts, "pose") == []
    report = " ".join(verify_manifest(images.parent / "hand.yaml").notes)
    assert "2 of 6 joints, of 2 persons, lie outside of their images" in report
    assert "1 of 4 persons have no joint that is marked" in report
    assert "1 of 4 persons have no joint in their box" in report
    turned = persons("pixels")
    for entry, (x, y) in zip(
        turned["annotations"], [(45, 1), (44, 2), (43, 3), (46, 4)], strict=True
    ):
        entry["keypoints"] = [y, x, 2, y, x - 1, 2]
    with pytest.raises(BadInput, match="they look like y, x; write x first"):
        made(images, turned, "pose")


def test_formats_that_there_are_not_are_refused(images: Path) -> None:
    with pytest.raises(BadInput, match="--box-format yolo: it is one of xywh"):
        made(images, document(BOXES), boxes="yolo")


def test_an_id_that_is_none_is_no_double() -> None:
    entry = {"image_id": 1, "category_id": 1, "bbox": [0, 0, 4, 4]}
    entries = [entry | {"id": odd} for odd in ({}, [], {"a": 1}, None, 0)]
    assert not [note for note in box_concerns(entries, {1: (8.0, 8.0)}).notes if " id" in note]
