"""`sfda manifest --problem pose --annotations`: persons, splits, joints, skeletons."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sfda.authoring.from_folder import build_manifest
from sfda.authoring.from_keypoints import read_skeleton
from sfda.errors import BadInput
from sfda.manifests.opening import open_manifest
from sfda.manifests.rows import read_split
from sfda.refs import Skeleton

JOINTS = ["nose", "left_hand", "right_hand"]
CATEGORY = {"id": 1, "name": "person", "keypoints": JOINTS, "skeleton": [[1, 2], [1, 3]]}


def person(number: int, image: int, *, annotated: bool = True, **more: Any) -> dict[str, Any]:
    points = {"keypoints": [4, 5, 2, 1, 9, 1, 0, 0, 0]} if annotated else {}
    return {
        "id": number, "image_id": image, "category_id": 1, "bbox": [1, 2, 8, 9], **points, **more
    }  # fmt: skip


def made(tmp_path: Path, people: list[dict[str, Any]], images: int, **more: Any) -> Path:
    folder = tmp_path / "images"
    folder.mkdir(exist_ok=True)
    for i in range(6):
        Image.fromarray(np.full((20, 30, 3), 20 * i, np.uint8)).save(folder / f"{i}.png")
    document = {
        "images": [{"id": i, "file_name": f"{i}.png"} for i in range(images)],
        "annotations": people,
        "categories": [more.pop("category", CATEGORY)],
    }
    annotations = tmp_path / "people.json"
    annotations.write_text(json.dumps(document))
    return build_manifest(
        folder, problem="pose", out=tmp_path / "site.yaml", annotations=annotations, **more
    )


def test_where_all_persons_have_joints_some_images_are_held_out(tmp_path):
    path = made(tmp_path, [person(i, i % 6) for i in range(9)], 6)
    result = open_manifest(path)
    assert result.classes == tuple(JOINTS)
    assert result.skeleton == Skeleton(
        edges=(("nose", "left_hand"), ("nose", "right_hand")), pairs=(("left_hand", "right_hand"),)
    )
    assert set(result.splits) == {"adapt", "train", "test", "val"}
    learn, test = read_split(result, "train"), read_split(result, "test")
    assert len(learn) + len(test) == 9
    assert {n.split("@")[0] for n in learn.names}.isdisjoint(n.split("@")[0] for n in test.names)
    assert learn.labels is not None
    np.testing.assert_array_equal(learn.labels[0].joints[:2], [[4, 5], [1, 9]])
    np.testing.assert_array_equal(learn.labels[0].visible, [1, 1, 0])
    assert read_split(result.unlabelled(), "adapt").labels is None


def test_where_some_have_they_are_the_test_and_images_without_a_person_are_seen_whole(tmp_path):
    people = [person(1, 0), person(2, 0), person(3, 1, annotated=False), person(4, 2, iscrowd=1)]
    result = open_manifest(made(tmp_path, people, 3))
    assert {name: split.count for name, split in result.splits.items()} == {"test": 2, "adapt": 4}
    adapt = read_split(result, "adapt")
    assert adapt.names == ("1.png@1", "3.png@1", "4.png@1", "5.png@1")
    assert adapt.labels is None
    assert adapt.image(1).shape[:2] == (30, 30)  # the longer side, squared
    assert read_split(result, "test").labels is not None


def test_boxes_alone_make_an_unlabelled_target(tmp_path):
    result = open_manifest(made(tmp_path, [person(i, i, annotated=False) for i in range(6)], 6))
    assert list(result.splits) == ["adapt"]
    assert len(read_split(result, "adapt")) == 6


def test_some_of_the_joints_and_a_skeleton_of_ones_own(tmp_path):
    file = tmp_path / "bones.yaml"
    file.write_text("skeleton:\n  edges: [[nose, left_hand]]\n  unit: [nose, left_hand]\n")
    bones = read_skeleton(file)
    people = [person(i, i % 6) for i in range(6)]
    result = open_manifest(made(tmp_path, people, 6, classes=("left_hand", "nose"), skeleton=bones))
    assert result.classes == ("left_hand", "nose")
    assert result.skeleton == bones
    split = read_split(result, "test")
    assert split.labels is not None
    np.testing.assert_array_equal(split.labels[0].joints, [[1, 9], [4, 5]])


@pytest.mark.parametrize(
    ("people", "more", "said"),
    [
        ([person(1, 9)], {}, "images that are not listed"),
        ([person(1, 0, keypoints=[1, 2])], {}, "not x, y, v of each joint: 1"),
        ([person(1, 0, bbox=[1, 2, 0, 4])], {}, "not four numbers with a size"),
        ([person(1, 0, bbox=[1, 2, 1e6, 4])], {}, "of at most 10000 pixels a side"),
        ([person(1, 0)], {"classes": ("nose", "tail")}, "no keypoints tail"),
        ([], {}, "lists no person"),
        ([person(1, 0)], {"category": {"id": 1, "name": "cat"}}, "names no keypoints"),
        ([person(1, 0)], {"skeleton": Skeleton(pairs=(("nose", "tail"),))}, "no joint: tail"),
    ],
)
def test_faults_are_named_and_nothing_is_written(tmp_path, people, more, said):
    with pytest.raises(BadInput, match=said):
        made(tmp_path, people, 3, **more)
    assert not (tmp_path / "site.yaml").exists()
    assert not (tmp_path / "site.rows.json").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("edges: [[a", "is not YAML"),
        ("edges: 3", "edges"),
        ("bones: []", "bones"),
        (None, "no file .*; a skeleton is"),
    ],
)
def test_a_faulty_skeleton_is_named(tmp_path, text, said):
    file = tmp_path / "bones.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(BadInput, match=said):
        read_skeleton(file)


def test_a_skeleton_that_counts_from_0_is_told(tmp_path):
    category = CATEGORY | {"skeleton": [[0, 2]]}
    with pytest.raises(
        BadInput, match=r"names joints that it has not \(0\): they are counted from 1"
    ):
        made(tmp_path, [person(0, 0)], 6, category=category)


@pytest.mark.parametrize(
    "more",
    [{"area": "x"}, {"keypoints": ["a"] * 9}, {"keypoints": [None] * 9},
     {"keypoints": [10**400] * 9}],
)  # fmt: skip
def test_joints_that_are_no_numbers_are_told(tmp_path, more):
    with pytest.raises(BadInput, match="keypoints are not x, y, v of each joint: 3"):
        made(tmp_path, [person(3, 0, **more)], 6)
