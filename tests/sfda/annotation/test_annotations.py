"""From a request through people's tools back to a manifest: every format, every fault, no half."""

from __future__ import annotations

import csv
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small
import small_seg
import torch
import yaml
from asking import exported, request_for
from PIL import Image

from sfda.annotation.take import take_annotations
from sfda.errors import BadInput
from sfda.formats.label_studio_rle import decode_mask, encode_mask
from sfda.manifests.opening import open_manifest
from sfda.manifests.rows import read_split, unlabelled_digest
from sfda.manifests.verify import verify_manifest


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return small.write(tmp_path, "target", small.target_arrays(), small.TARGET)


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    return small_seg.write(tmp_path, "target", small_seg.TARGET, seed=3, dull=True)


@pytest.mark.parametrize("size", [(1, 1), (7, 5), (64, 48)])
def test_a_brush_comes_back(size: tuple[int, int]) -> None:
    for seed in range(3):
        mask = np.random.default_rng(seed).random(size) > 0.2 + 0.3 * seed
        assert np.array_equal(decode_mask(encode_mask(mask), *size), mask)
    for mask in (np.zeros((300, 400), bool), np.ones((300, 400), bool)):
        assert np.array_equal(decode_mask(encode_mask(mask), 300, 400), mask)
    with pytest.raises(ValueError, match="were expected"):
        decode_mask(encode_mask(np.ones((2, 3), bool)), 4, 4)


def test_literal_words_of_a_brush_are_read() -> None:
    """Label Studio also writes runs of unlike bytes one by one."""
    pixels = [0, 0, 0, 255, 9, 9, 9, 0]
    bits = f"{8:032b}" + f"{7:05b}" + "".join(f"{s - 1:04b}" for s in (3, 4, 8, 16))
    bits += "0" + "00" + f"{7:03b}" + "".join(f"{p:08b}" for p in pixels)
    bits += "0" * (-len(bits) % 8)
    code = [int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)]
    assert decode_mask(code, 1, 2).tolist() == [[True, False]]


def test_label_studio_answers_make_the_next_version(tmp_path: Path, target: Path) -> None:
    request_for(target, [3, 10, 4], tmp_path / "ask")
    result = take_annotations(tmp_path / "ask", exported(tmp_path / "ask"), target)
    assert (result.manifest.name, result.annotated, result.requested, result.total) == (
        "target.v2.yaml", 3, 3, 3
    )  # fmt: skip
    manifest = open_manifest(result.manifest)
    assert manifest.version == 2
    split = read_split(manifest.unlabelled(), "adapt")
    assert split.labels is None
    assert split.annotations is not None
    assert split.annotations.rows.tolist() == [3, 10, 4]
    assert split.annotations.labels.index.tolist() == [0, 1, 1]
    assert read_split(manifest, "test").annotations is None
    assert verify_manifest(result.manifest).ok
    old = open_manifest(target)
    assert unlabelled_digest(manifest, "adapt") == unlabelled_digest(old, "adapt")
    request_for(result.manifest, [7], tmp_path / "again")
    more = take_annotations(tmp_path / "again", exported(tmp_path / "again"), result.manifest)
    assert (more.manifest.name, more.total) == ("target.v3.yaml", 4)
    remaining = read_split(open_manifest(more.manifest), "adapt").annotations
    assert remaining is not None
    assert remaining.rows.tolist() == [3, 10, 4, 7]


def test_the_other_formats_say_the_same(tmp_path: Path, target: Path) -> None:
    request = request_for(target, [3, 10], tmp_path / "ask")
    folder = tmp_path / "ask"
    rows = [w.row for w in request.requested]
    least = folder / "min.json"
    least.write_text(json.dumps([{"id": 1, "row": rows[0], "class": "cross"},
                                 {"id": 2, "row": rows[1], "class": "bar"}]))  # fmt: skip
    table = folder / "filled.csv"
    table.write_text(f"row,class\n{rows[0]},cross\n{rows[1]},bar\n")
    indices = folder / "indices.csv"
    indices.write_text("index,class\n3,cross\n10,bar\n")
    coco = json.loads((folder / "cvat_coco.json").read_text())
    for annotation, category in zip(coco["annotations"], (3, 1), strict=True):
        annotation["category_id"] = category
        del annotation["score"]
    for image in coco["images"]:
        del image["row"]  # CVAT forgets it
    packed = folder / "cvat.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("annotations/instances_default.json", json.dumps(coco))
    for n, answers in enumerate((least, table, indices, packed)):
        out = tmp_path / "out" / f"{n}.yaml"
        result = take_annotations(folder, answers, target, out=out)
        split = read_split(open_manifest(out), "adapt")
        assert split.annotations is not None
        assert split.annotations.labels.index.tolist() == [2, 0], answers
        assert split.labels is not None, "the images are found from another folder"
        assert result.annotated == 2


def test_every_fault_is_named_at_once_and_nothing_is_taken(tmp_path: Path, target: Path) -> None:
    request_for(target, [0, 1, 2, 3, 4, 5, 6], tmp_path / "ask")

    def spoil(tasks: list[Any]) -> list[Any]:
        tasks[0]["annotations"][0]["result"][0]["value"]["choices"] = ["circle"]
        tasks[1]["annotations"].append({"result": [{"value": {"choices": ["cross"]}}]})
        tasks[2]["annotations"][0]["result"][0]["value"]["choices"] = ["bar", "post"]
        stranger = json.loads(json.dumps(tasks[3]))
        stranger["data"]["row"], stranger["data"]["file"] = "f" * 16, "77"
        tasks[4]["annotations"] = [{"result": [{}]}]
        tasks[5]["annotations"][0]["was_cancelled"] = True
        return [*tasks, stranger, tasks[6]]

    before = sorted(p.name for p in tmp_path.iterdir())
    with pytest.raises(BadInput) as error:
        take_annotations(tmp_path / "ask", exported(tmp_path / "ask", spoil), target)
    output = str(error.value)
    for part in (
        "unknown class (known: bar, post, cross): 0 (circle)", "2 annotations that disagree",
        "several classes: 2 (bar, post)", "never asked for: 77", "cannot be read",
        "answered twice: 6", "nothing was taken",
    ):  # fmt: skip
        assert part in output, part
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_what_cannot_be_is_refused(tmp_path: Path, target: Path) -> None:
    folder = tmp_path / "ask"
    request_for(target, [0, 1], folder)
    empty = folder / "empty.csv"
    empty.write_text("row,class\n")
    with pytest.raises(BadInput, match="not one sample has an answer"):
        take_annotations(folder, empty, target)
    with pytest.raises(BadInput, match="holds no request"):
        take_annotations(tmp_path, empty, target)
    with pytest.raises(BadInput, match="cannot be read"):
        take_annotations(folder, tmp_path / "none.json", target)
    odd = folder / "odd.json"
    odd.write_text('{"a": 1}')
    with pytest.raises(BadInput, match="no export that is known"):
        take_annotations(folder, odd, target)
    good = exported(folder)
    first = take_annotations(folder, good, target)
    assert take_annotations(folder, good, target).again
    with pytest.raises(BadInput, match="answered already"):
        take_annotations(folder, good, first.manifest)
    first.manifest.with_suffix(".answers.csv").write_text("index,class\n0,bar\n1,bar\n")
    assert any("other sha256" in fault for fault in verify_manifest(first.manifest).faults)
    request = request_for(target, [7], tmp_path / "other")
    asked = request.requested[0].model_copy(update={"row": "e" * 16, "key": "99"})
    gone = request.model_copy(update={"requested": (asked,)})
    (tmp_path / "other" / "request.json").write_text(gone.model_dump_json(by_alias=True))
    with pytest.raises(BadInput, match=r"images that .* lacks: 99"):
        take_annotations(tmp_path / "other", exported(tmp_path / "other"), target)


@pytest.mark.parametrize("kind", ["label_studio", "coco", "csv"])
def test_masks_come_back_pixel_by_pixel(tmp_path: Path, scenes: Path, kind: str) -> None:
    folder = tmp_path / "ask"
    request = request_for(scenes, [5, 2], folder)
    _, masks = small_seg.shapes(36, seed=3)
    if kind == "label_studio":
        answers = exported(folder)
    elif kind == "coco":
        answers = folder / "cvat_coco.json"
    else:
        answers = folder / "filled.csv"
        with answers.open("w", newline="") as opened:
            writer = csv.writer(opened)
            writer.writerow(["row", "mask"])
            for expected, row in zip(request.requested, (5, 2), strict=True):
                Image.fromarray(masks[row]).save(folder / f"{row}.png")
                writer.writerow([expected.row, f"{row}.png"])
    result = take_annotations(folder, answers, scenes)
    split = read_split(open_manifest(result.manifest).unlabelled(), "adapt")
    assert split.labels is None
    assert split.annotations is not None
    assert split.annotations.rows.tolist() == [5, 2]
    for n, row in enumerate((5, 2)):
        assert np.array_equal(split.annotations.labels.mask(n), masks[row])


def test_what_nobody_painted_does_not_count(tmp_path: Path, scenes: Path) -> None:
    folder = tmp_path / "ask"
    request_for(scenes, [5], folder)

    def polygon(tasks: list[Any]) -> list[Any]:
        corners = [[0, 0], [50, 0], [50, 50], [0, 50]]
        tasks[0]["annotations"][0]["result"] = [
            {"type": "polygonlabels", "original_width": 32, "original_height": 32,
             "value": {"points": corners, "polygonlabels": ["bar"]}}
        ]  # fmt: skip
        return tasks

    results = take_annotations(folder, exported(folder, polygon), scenes)
    split = read_split(open_manifest(results.manifest), "adapt")
    assert split.annotations is not None
    mask = split.annotations.labels.mask(0)
    assert (mask[:16, :16] == 2).all()
    assert (mask[20:, 20:] == 255).all()
    assert torch.from_numpy(mask).unique().tolist() == [2, 255]
    assert yaml.safe_load(results.manifest.read_text())["splits"]["adapt"]["answers"]["count"] == 1
