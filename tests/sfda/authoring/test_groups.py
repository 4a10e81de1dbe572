"""Images that belong together stay on one side of a split, and what looks like it is told."""

import json
import logging
import shlex
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sfda.authoring.from_folder import build_manifest
from sfda.authoring.from_masks import MaskOptions
from sfda.authoring.groups import Groups, way_to_group
from sfda.errors import BadInput
from sfda.manifests.opening import open_manifest
from sfda.manifests.rows import read_split

NAMES = [f"video{video}_frame{frame:04d}.png" for video in range(6) for frame in range(6)]


def pictures(folder: Path, names: list[str], mask: bool = False) -> Path:
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if mask:
            Image.fromarray(np.full((8, 8), number % 2, np.uint8)).save(folder / name)
        else:
            Image.new("RGB", (8, 8), (number, 1, 2)).save(folder / name)
    return folder


def document(tmp_path: Path, **annotation: Any) -> Path:
    keys = {"keypoints": ["left_eye", "right_eye"]} if "keypoints" in annotation else {}
    path = tmp_path / "coco.json"
    path.write_text(
        json.dumps(
            {
                "images": [
                    {"id": n, "file_name": name, "width": 8, "height": 8}
                    for n, name in enumerate(NAMES)
                ],
                "annotations": [
                    {"id": n, "image_id": n, "category_id": 1, "bbox": [1, 1, 4, 4], **annotation}
                    for n in range(len(NAMES))
                ],
                "categories": [{"id": 1, "name": "thing", **keys}],
            }
        )
    )
    return path


def build(tmp_path: Path, problem: str, groups: str | None) -> Path:
    images = tmp_path / "images"
    if problem == "classification":
        pictures(images, [f"{kind}/{kind}_{name}" for kind in "ab" for name in NAMES])
        more: dict[str, Any] = {"classes": ("a", "b")}
    elif problem == "multilabel":
        pictures(images, NAMES)
        table = tmp_path / "labels.csv"
        table.write_text("file,classes\n" + "".join(f"{n},{'ab'[len(n) % 2]}\n" for n in NAMES))
        more = {"labels_csv": table}
    elif problem == "segmentation":
        pictures(images, NAMES)
        pictures(images / "masks", NAMES, mask=True)
        more = {"classes": ("a", "b"), "masks": MaskOptions("masks")}
    else:
        pictures(images, NAMES)
        points = {"keypoints": [1, 1, 2, 3, 3, 2]} if problem == "pose" else {}
        more = {"annotations": document(tmp_path, **points)}
    return build_manifest(images, problem=problem, out=tmp_path / "m.yaml", groups=groups, **more)


@pytest.mark.parametrize("groups", [r"(.*)_frame\d+", "*_frame", r"(?:^|/)(\w*video\d+)"])
@pytest.mark.parametrize(
    "problem", ["classification", "multilabel", "segmentation", "detection", "pose"]
)
def test_no_group_lies_on_both_sides(tmp_path, problem, groups, caplog):
    with caplog.at_level(logging.WARNING, "sfda"):
        manifest = open_manifest(build(tmp_path, problem, groups))
    assert "consecutive" not in caplog.text
    adapt, test = (read_split(manifest, split) for split in ("adapt", "test"))
    assert adapt.groups is not None
    assert test.groups is not None
    assert not set(adapt.groups) & set(test.groups)
    assert set(Counter(test.groups).values()) == {6}
    assert len(test) < len(adapt)


@pytest.mark.parametrize("problem", ["multilabel", "segmentation", "detection", "pose"])
def test_frames_that_a_random_split_tears_apart_are_told(tmp_path, problem, caplog):
    with caplog.at_level(logging.WARNING, "sfda"):
        build(tmp_path, problem, None)
    assert "images have consecutive names (video0_frame0000.png ..." in caplog.text
    assert "--groups" in caplog.text


@pytest.mark.parametrize(
    ("name", "groups"),
    [
        ("video{}_frame{:04d}.png", 3),
        ("v{}/img{}.jpg", 3),
        ("{}/{:05d}.tif", 3),
        ("clip{1}.jp2", 1),
    ],
)
def test_the_option_that_is_named_groups_them(name: str, groups: int) -> None:
    keys = [name.format(video, frame) for video in range(3) for frame in range(8)]
    option = shlex.split(way_to_group(keys[0]).split(" (")[0])
    assert len(set(Groups(option[1]).of(keys))) == groups


@pytest.mark.parametrize(
    ("names", "noticed"),
    [
        ([f"frame_{n:04d}.png" for n in range(1, 30)], True),
        ([f"{n:05d}.jpg" for n in range(1, 30)], True),
        ([f"clip-a {n}.png" for n in range(30)], True),
        ([f"x/seq{n}.png" for n in range(30)], True),
        ([f"{n}.png" for n in range(30)], False),
        ([f"image_{n * n * 7}.png" for n in range(30)], False),
        ([f"cell_{'abcdefghij'[n % 10]}{n // 10}x.png" for n in range(30)], False),
    ],
)
def test_runs_of_consecutive_names_are_noticed(tmp_path, names, noticed, caplog):
    pictures(tmp_path / "images", names)
    table = tmp_path / "labels.csv"
    table.write_text("file,class\n" + "".join(f"{n},{'ab'[i % 2]}\n" for i, n in enumerate(names)))
    with caplog.at_level(logging.WARNING, "sfda"):
        build_manifest(tmp_path / "images", problem="classification", out=tmp_path / "m.yaml",
                       labels_csv=table)  # fmt: skip
    assert ("consecutive names" in caplog.text) == noticed


def test_numbers_that_only_count_the_images_of_a_class_are_none(tmp_path, caplog):
    pictures(tmp_path / "images", [f"{kind}/{kind}.{n}.png" for kind in "ab" for n in range(20)])
    with caplog.at_level(logging.WARNING, "sfda"):
        build_manifest(tmp_path / "images", problem="classification", out=tmp_path / "m.yaml",
                       classes=("a", "b"))  # fmt: skip
    assert not caplog.text


@pytest.mark.parametrize(
    ("pattern", "message"),
    [("(a)(b)", "has 2 groups"), ("(a", "no regular expression"), ("zebra*_", "fits no name")],
)
def test_a_pattern_that_cannot_be_is_refused(pattern, message):
    with pytest.raises(BadInput, match=message):
        Groups(pattern).of(["a_1.png"])
