"""COCO files and Pascal VOC's: what is read, what is refused by name, and where boxes lie."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from sfda.augment.photometric import ViewMaker
from sfda.authoring.conversion.voc import convert_voc
from sfda.authoring.from_folder import build_manifest
from sfda.building_blocks.boxes import Boxes, BoxLabels
from sfda.errors import BadInput
from sfda.images.preprocess import fitted, prepare_image
from sfda.loading.labelled_batches import LabelledLoader
from sfda.manifests.digests import file_digest
from sfda.manifests.opening import open_manifest
from sfda.manifests.rows import read_split, unlabelled_digest
from sfda.manifests.verify import verify_manifest
from sfda.problems.detection.labels import BoxTargets, boxes_from_frame, boxes_to_frame
from sfda.problems.detection.network import views_for
from sfda.problems.registry import PROBLEMS
from sfda.refs import InputSpec

LETTER = InputSpec(size=(40, 60), letterbox=True, mean=(0.5,) * 3, std=(0.5,) * 3)
CATEGORIES = [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}]


def entry(image: int, category: int, box: list[Any], **more: Any) -> dict[str, Any]:
    return {"id": 0, "image_id": image, "category_id": category, "bbox": box, **more}


def document(count: int = 4, **changes: Any) -> dict[str, Any]:
    images = [{"id": i, "file_name": f"{i}.png", "width": 30, "height": 20} for i in range(count)]
    annotations = [
        entry(0, 7, [2, 3, 10, 5]),
        entry(0, 3, [25, 15, 20, 20]),  # reaches beyond
        entry(1, 3, [1, 1, 0, 4]),  # no area
        entry(1, 3, [40, 40, 5, 5]),  # outside
        entry(2, 7, [0, 0, 30, 20], iscrowd=1),
    ]
    return {"images": images, "annotations": annotations, "categories": CATEGORIES} | changes


def folder(tmp_path: Path, count: int = 4) -> Path:
    root = tmp_path / "images"
    root.mkdir(exist_ok=True)
    for i in range(count):
        Image.fromarray(np.full((20, 30, 3), 10 * i, np.uint8)).save(root / f"{i}.png")
    return root


def written(tmp_path: Path, inputs: dict[str, Any]) -> Path:
    path = tmp_path / "boxes.json"
    path.write_text(json.dumps(inputs))
    return path


def manifest_of(tmp_path: Path, inputs: dict[str, Any], **changes: Any) -> Path:
    folder(tmp_path)
    rows = written(tmp_path, inputs)
    split = {"rows": rows.name, "sha256": file_digest(rows), "count": 4}
    output = {
        "name": "pets", "problem": "detection", "origin": "a test", "root": "./images",
        "classes": ["dog", "cat"], "splits": {"test": split},
    } | changes  # fmt: skip
    path = tmp_path / "pets.yaml"
    path.write_text(yaml.safe_dump(output))
    return path


def test_boxes_are_clipped_dropped_and_named_by_class(tmp_path: Path) -> None:
    results = read_split(open_manifest(manifest_of(tmp_path, document())), "test")
    assert results.labelled
    assert results.labels is not None
    first, second, third, fourth = results.labels.table.rows
    assert first.boxes.tolist() == [[2, 3, 12, 8], [25, 15, 30, 20]]
    assert first.labels.tolist() == [1, 0]  # by name, whatever the ids
    assert len(second.boxes) == len(fourth.boxes) == 0
    assert third.crowd.tolist() == [True]
    result = verify_manifest(tmp_path / "pets.yaml")
    assert result.ok, result.faults
    assert [n.removeprefix("split 'test': ") for n in result.notes] == [
        "2 boxes without an area, or outside of their image are left out",
        "1 boxes of crowds are not learnt from, and ignored where they match",
        "2 images hold no box",
        "2 of 5 boxes reach beyond their images by more than a pixel",
        "1 of 5 boxes are below one pixel wide or high",
    ]


def test_labels_never_leave_an_unlabelled_manifest(tmp_path: Path) -> None:
    manifest = open_manifest(manifest_of(tmp_path, document()))
    seen = read_split(manifest.unlabelled(), "test")
    assert seen.labels is None
    assert not seen.labelled
    before = unlabelled_digest(manifest, "test")
    other = document(annotations=[entry(3, 3, [0, 0, 9, 9])])
    after = unlabelled_digest(open_manifest(manifest_of(tmp_path, other)), "test")
    assert before == after


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"annotations": [entry(0, 9, [0, 0, 2, 2])]}, "categories that are not listed: 9"),
        ({"annotations": [entry(8, 7, [0, 0, 2, 2])]}, "images that are not listed: 8"),
        ({"annotations": [entry(0, 7, [0, "x", 2, 2])]}, "bbox is not four numbers"),
        ({"annotations": [entry(0, 7, [0, float("nan"), 2, 2])]}, "bbox is not four numbers"),
        ({"categories": [*CATEGORIES, {"id": 3, "name": "cow"}]}, "share one id: 3"),
        (
            {
                "categories": [*CATEGORIES, {"id": 5, "name": "cow"}],
                "annotations": [entry(0, 5, [0, 0, 2, 2])],
            },
            "not among the manifest's `classes`: cow",
        ),
        ({"images": "none"}, "it has no list `images`"),
        ({"annotations": [{"category_id": 7}]}, "an entry of `annotations` has no image_id"),
        ({"annotations": [entry("2", 7, [0, 0, 2, 2])]}, "not listed: '2'; an id is a number or"),
        (
            {"annotations": [entry([1], 7, [0, 0, 2, 2])]},
            "image_id of annotations is to be a text, or a whole",
        ),
        ({"annotations": [entry(1, 7.0, [0, 0, 2, 2])]}, "category_id of annotations is to be a"),
        ({"annotations": [entry(1, True, [0, 0, 2, 2])]}, "category_id of annotations is to be a"),
        ({"annotations": [entry(2**61 - 1, 7, [0, 0, 2, 2])]}, "image_id of annotations is"),
        ({"images": [{"id": -(2**61), "file_name": "0.png"}]}, "id of images is to be"),
        ({"categories": [{"id": 2**61 - 1, "name": "cat"}]}, "id of categories is to be"),
        ({"annotations": [entry(1, 7, [0, 0, 10**400, 2])]}, "bbox is not four numbers"),
        ({"annotations": [entry(1, 7, [0, 0, 2, 2], iscrowd="0")]}, "iscrowd is to be 0 or 1"),
        (
            {"images": [{"id": 0, "file_name": "0.png", "width": "30", "height": 20}]},
            "width of 0.png is no number: '30'",
        ),
        (
            {"images": [{"id": 0, "file_name": "0.png", "split": 1}]},
            "split of 0.png is no text: 1",
        ),
    ],
)
def test_every_mismatch_is_named(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    manifest = open_manifest(manifest_of(tmp_path, document(**changes)))
    with pytest.raises(BadInput, match=said):
        read_split(manifest, "test")
    assert not verify_manifest(tmp_path / "pets.yaml").ok


def test_a_manifest_is_made_of_images_and_a_document(tmp_path: Path) -> None:
    root = folder(tmp_path, 10)
    out = build_manifest(
        root, problem="detection", annotations=written(tmp_path, document(10)),
        out=tmp_path / "m.yaml",
    )  # fmt: skip
    result = open_manifest(out)
    assert result.classes == ("dog", "cat")  # in the order of their ids
    assert {name: s.count for name, s in result.splits.items()} == {
        "adapt": 8, "train": 8, "test": 2, "val": 2
    }  # fmt: skip
    assert verify_manifest(out).ok
    names = [set(read_split(result, split).names) for split in ("adapt", "test")]
    assert names[0].isdisjoint(names[1])
    assert len(names[0] | names[1]) == 10
    # without an entry for some: those are for adaptation, and nothing is said of their boxes
    out = build_manifest(
        root, problem="detection", annotations=written(tmp_path, document(4)),
        out=tmp_path / "half.yaml",
    )  # fmt: skip
    half = open_manifest(out)
    assert {name: s.count for name, s in half.splits.items()} == {"test": 4, "adapt": 6}
    assert read_split(half, "test").labelled
    assert not read_split(half, "adapt").labelled
    with pytest.raises(BadInput, match=r"images that are not in .*: 10\.png, 11\.png"):
        build_manifest(
            root, problem="detection", annotations=written(tmp_path, document(12)),
            out=tmp_path / "more.yaml",
        )  # fmt: skip
    assert not (tmp_path / "more.yaml").exists()
    with pytest.raises(BadInput, match="for detection"):
        build_manifest(
            root, problem="classification", annotations=tmp_path / "boxes.json",
            out=tmp_path / "other.yaml",
        )  # fmt: skip


VOC = """<annotation><filename>{name}.jpg</filename>
<size><width>30</width><height>20</height></size>{objects}</annotation>"""
OBJECT = """<object><name>{name}</name><difficult>{hard}</difficult><bndbox><xmin>{x1}</xmin>
<ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"""


def test_pascal_voc_becomes_coco(tmp_path: Path) -> None:
    voc = tmp_path / "voc"
    (voc / "Annotations").mkdir(parents=True)
    (voc / "JPEGImages").mkdir()
    one = OBJECT.format(name="dog", hard=0, x1=1, y1=1, x2=10, y2=20)
    two = OBJECT.format(name="cat", hard=1, x1=5, y1=6, x2=30, y2=20)
    (voc / "Annotations/a.xml").write_text(VOC.format(name="a", objects=one + two))
    (voc / "Annotations/b.xml").write_text(VOC.format(name="b", objects=""))
    result = convert_voc(voc, tmp_path / "out.json")
    assert result == {"images": 2, "boxes": 2, "classes": ["cat", "dog"]}
    inputs = json.loads((tmp_path / "out.json").read_text())
    assert [i["file_name"] for i in inputs["images"]] == ["JPEGImages/a.jpg", "JPEGImages/b.jpg"]
    boxes = [(a["category_id"], a["bbox"], a["iscrowd"]) for a in inputs["annotations"]]
    assert boxes == [(2, [0, 0, 10, 20], 0), (1, [4, 5, 26, 15], 1)]
    with pytest.raises(BadInput, match="classes that were not named: cat"):
        convert_voc(voc, tmp_path / "other.json", ("dog",))
    (voc / "Annotations/c.xml").write_text("<annotation><filename>c.jpg</filename><object>")
    with pytest.raises(BadInput, match=r"c\.xml"):
        convert_voc(voc, tmp_path / "other.json")
    assert not (tmp_path / "other.json").exists()
    with pytest.raises(BadInput, match=r"no \.xml files"):
        convert_voc(voc / "JPEGImages", tmp_path / "other.json")


@pytest.mark.parametrize("size", [(20, 30), (20, 10), (33, 100), (80, 120)])
def test_a_letterbox_keeps_the_ratio_and_boxes_find_back(size: tuple[int, int]) -> None:
    height, width = fitted(size, LETTER)
    assert (height == 40) or (width == 60)
    assert height / size[0] == pytest.approx(width / size[1], rel=0.05)
    image = np.full((*size, 3), 200, np.uint8)
    framed = prepare_image(image, LETTER)
    assert framed.shape == (40, 60, 3)
    assert (framed[:height, :width] == 200).all()
    assert (framed[height:] == 128).all()  # the mean
    assert (framed[:, width:] == 128).all()
    own = np.array([[1, 2, size[1] - 1, size[0] - 1]], np.float32)
    inputs = BoxLabels(own, np.array([1]), np.array([False]))
    there = boxes_to_frame(inputs, size, LETTER)
    assert float(there.boxes[0, 2]) <= width
    back = boxes_from_frame(there, size, LETTER)
    np.testing.assert_allclose(back.boxes.numpy(), own, atol=1e-4)
    # what lies beyond the image is no answer; a crowd is nothing to learn
    outside = Boxes(torch.tensor([[0.0, 0, 70, 50], [width + 1.0, height + 1, 90, 90]]),
                    torch.zeros(2, dtype=torch.long), torch.ones(2))  # fmt: skip
    assert boxes_from_frame(outside, size, LETTER).boxes.tolist() == [[0, 0, size[1], size[0]]]
    assert len(boxes_to_frame(inputs._replace(crowd=np.array([True])), size, LETTER).boxes) == 0


def test_boxes_move_with_their_image() -> None:
    spec = InputSpec(size=(16, 24), mean=(0.5,) * 3, std=(0.5,) * 3)
    image = np.zeros((16, 24, 3), np.uint8)
    image[4:9, 2:11] = 255
    boxes = [Boxes(torch.tensor([[2.0, 4, 11, 9]]), torch.tensor([1]), torch.ones(1))]
    maker = ViewMaker(spec, views_for(spec).model_copy(update={"flip": True}), seed=0)
    seen = set()
    for epoch in range(12):
        views, moved = maker.weak_with_boxes(image[None], boxes, epoch, np.array([0]))
        rows, columns = np.nonzero(views[0, ..., 0])
        around = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert moved[0].boxes.tolist() == [around]
        assert moved[0].labels.tolist() == [1]
        seen.add(int(columns.min()))
    assert seen == {2, 13}


def test_labelled_batches_hold_boxes_and_a_single_image_is_a_batch() -> None:
    spec = InputSpec(size=(16, 24), mean=(0.5,) * 3, std=(0.5,) * 3)
    images = np.zeros((5, 16, 24, 3), np.uint8)
    boxes = [Boxes(torch.tensor([[0.0, 0, i + 1, 4]]), torch.tensor([i]), torch.ones(1))
             for i in range(5)]  # fmt: skip
    made: Any = {"problem": PROBLEMS["detection"], "batch_size": 2, "seed": 0, "device": "cpu"}
    loader = LabelledLoader(images, BoxTargets(boxes), spec, views_for(spec), **made)
    assert loader.steps() == 3  # the last holds one image, which batch norm never sees
    for batch in loader.epoch(0):
        assert batch.labelled is not None
        labels = [int(result.labels[0]) for result in batch.labelled.targets]
        assert labels == batch.index.tolist()
    with pytest.raises(BadInput, match="5 images but boxes of 4"):
        LabelledLoader(images, BoxTargets(boxes[:4]), spec, views_for(spec), **made)


def test_stated_sizes_are_those_of_the_images_or_none(tmp_path: Path) -> None:
    """Boxes of a smaller picture would be cut off at its side."""
    root, out = folder(tmp_path), tmp_path / "made.yaml"
    inputs = document(annotations=[entry(0, 7, [2, 3, 25, 15])])
    swapped = [image | {"width": 20, "height": 30} for image in inputs["images"]]
    annotations = written(tmp_path, inputs | {"images": swapped})
    output = r"another size than the annotations state: 0.png \(is 30 x 20, not 20 x 30\), 1.png"
    with pytest.raises(BadInput, match=output):
        build_manifest(root, problem="detection", annotations=annotations, out=out)
    assert not out.exists()
    for nothing in ({"width": 0, "height": 0}, {"width": None}, {}):
        bare = [{"id": i, "file_name": f"{i}.png"} | nothing for i in range(4)]
        annotations = written(tmp_path, inputs | {"images": bare})
        made = build_manifest(root, problem="detection", annotations=annotations, out=out)
        split = read_split(open_manifest(made), "test")
        remaining = [
            split.labels[n].boxes.tolist() for n in range(len(split)) if split.names[n] == "0.png"
        ]
        assert remaining in ([], [[[2, 3, 27, 18]]])
        assert verify_manifest(made).ok
        for file in tmp_path.glob("made.*"):
            file.unlink()
    build_manifest(root, problem="detection", annotations=written(tmp_path, inputs), out=out)
    Image.new("RGB", (15, 10)).save(root / "0.png")
    assert any("0.png (is 15 x 10, not 30 x 20)" in fault for fault in verify_manifest(out).faults)


def test_categories_may_have_ids_of_both_kinds(tmp_path: Path) -> None:
    categories = [{"id": "b", "name": "dog"}, {"id": 7, "name": "cat"}]
    inputs = document(categories=categories, annotations=[entry(0, 7, [2, 3, 9, 9])])
    made = build_manifest(
        folder(tmp_path), problem="detection", annotations=written(tmp_path, inputs),
        out=tmp_path / "made.yaml",
    )  # fmt: skip
    assert open_manifest(made).classes == ("cat", "dog")
