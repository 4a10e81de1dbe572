"""Boxes, masks and joints through the formats of people's tools and back, bit by bit.

Random ones under a fixed seed: pictures of odd sizes, coordinates of all float32 digits, masks of
single pixels and of long runs.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from asking import coco, exported, least, xml
from pycocotools import mask as codec

from sfda.annotation.exports import read_export
from sfda.annotation.request_files import documents
from sfda.annotation.take import match
from sfda.authoring.from_folder import build_manifest
from sfda.building_blocks.boxes import Boxes
from sfda.formats.coco import read_coco
from sfda.formats.label_studio_rle import decode_mask, encode_mask
from sfda.formats.request import Request, RequestedRow
from sfda.manifests.opening import open_manifest
from sfda.manifests.rows import read_split
from sfda.problems.pose.inference import Joints

CLASSES = ("disc", "square", "tri")
SIZES = [(7, 3), (40, 48), (333, 1001), (1, 1), (301, 617), (613, 9)]  # height and width
ROUNDS = 6  # of all sizes


def rows(rng: np.random.Generator) -> list[RequestedRow]:
    sizes = [SIZES[i % len(SIZES)] for i in range(ROUNDS * len(SIZES))]
    return [
        RequestedRow(
            row=f"{n:016x}", key=f"a folder/{n:03}.png", file=f"a folder/{n:03}.png",
            height=height, width=width, confidence=float(rng.random()),
        )
        for n, (height, width) in enumerate(sizes)
    ]  # fmt: skip


def request_of(problem: str, asked: list[RequestedRow], classes: tuple[str, ...]) -> Request:
    return Request(
        problem=problem, manifest="m", manifest_sha256="0" * 64, split="adapt", column="file",
        classes=classes, by="margin", seed=0, model="models:/toy/1", model_sha256="0" * 64,
        copied=False, requested=tuple(asked),
    )  # fmt: skip


def written(folder: Path, request: Request, guesses: dict[str, Any]) -> None:
    folder.mkdir()
    for name, content in documents(request, guesses).items():
        (folder / name).write_bytes(content)


def answers(request: Request, export: Path) -> dict[str, Any]:
    annotations, faults, blank = match(request, read_export(export))
    assert not faults
    assert not blank
    return {row: annotation for row, (_, annotation) in annotations.items()}


def some_boxes(rng: np.random.Generator, sample: RequestedRow) -> Boxes:
    count = int(rng.integers(1, 6))
    size = np.array([sample.width, sample.height] * 2, np.float32)
    ends = np.sort(rng.random((count, 2, 2), np.float32), axis=1)
    ends[:, 1] = np.maximum(ends[:, 1], ends[:, 0] + 0.02)
    boxes = np.minimum(ends.reshape(count, 4), 1).astype(np.float32) * size
    boxes[0] = (0, 0, *size[:2])  # to the very edge
    boxes = boxes[((boxes[:, 2:] - boxes[:, :2]) > 0.02).all(1)]
    return Boxes(
        torch.from_numpy(boxes),
        torch.from_numpy(rng.integers(0, len(CLASSES), len(boxes))),
        torch.from_numpy(rng.random(len(boxes), np.float32)),
    )


EXPORTS = [exported, least, coco, xml]


@pytest.mark.parametrize("export", EXPORTS)
def test_boxes_come_back_bit_by_bit(tmp_path: Path, export: Callable[[Path], Path]) -> None:
    rng = np.random.default_rng(20)
    asked = rows(rng)
    request = request_of("detection", asked, CLASSES)
    guesses = {sample.row: some_boxes(rng, sample) for sample in asked}
    written(tmp_path / "ask", request, guesses)
    back = answers(request, export(tmp_path / "ask"))
    assert list(back) == [sample.row for sample in asked]
    for row, guess in guesses.items():
        assert np.array_equal(back[row].boxes, guess.boxes.numpy())
        assert back[row].labels.tolist() == guess.labels.tolist()


@pytest.mark.parametrize("export", EXPORTS)
def test_joints_come_back_bit_by_bit(tmp_path: Path, export: Callable[[Path], Path]) -> None:
    rng = np.random.default_rng(21)
    asked = [
        sample.model_copy(update={"corner": tuple(map(int, rng.integers(-40, 900, 2)))})
        for sample in rows(rng)
    ]
    request = request_of("pose", asked, CLASSES)
    guesses, truth = {}, {}
    for sample in asked:
        limit = np.array([sample.width, sample.height]) - 1
        joints = (rng.random((3, 2), np.float32) * limit + sample.corner).astype(np.float32)
        low, high = np.array(sample.corner), np.array(sample.corner) + limit
        truth[sample.row] = np.clip(joints, low, high).astype(np.float32)
        guesses[sample.row] = Joints(
            truth[sample.row] - np.array(sample.corner), rng.random(3, np.float32)
        )
    written(tmp_path / "ask", request, guesses)
    back = answers(request, export(tmp_path / "ask"))
    for row, joints in truth.items():
        assert np.array_equal(back[row].joints, joints)
        assert back[row].visible.tolist() == [1, 1, 1]


@pytest.mark.parametrize("export", [exported, least, coco])
def test_masks_come_back_pixel_by_pixel(tmp_path: Path, export: Callable[[Path], Path]) -> None:
    rng = np.random.default_rng(22)
    asked = rows(rng)[: 2 * len(SIZES)]
    request = request_of("segmentation", asked, CLASSES)
    guesses = {}
    for n, sample in enumerate(asked):
        mask = np.zeros((sample.height, sample.width), np.uint8)
        if n % 2:  # runs beyond 65,536 too
            mask[:, : sample.width // 2] = 2
            mask[sample.height // 3 :, sample.width // 3 :] = 1
        else:
            mask[:60, :60] = rng.integers(0, 3, mask[:60, :60].shape)
        guesses[sample.row] = mask
    written(tmp_path / "ask", request, guesses)
    back = answers(request, export(tmp_path / "ask"))
    for row, mask in guesses.items():
        assert np.array_equal(back[row], mask)


def test_masks_of_cvats_own_xml_come_back(tmp_path: Path) -> None:
    rng = np.random.default_rng(23)
    asked = rows(rng)[: len(SIZES)]
    request = request_of("segmentation", asked, CLASSES)
    masks = {s.row: rng.integers(0, 3, (s.height, s.width)).astype(np.uint8) for s in asked[:2]}
    lines = ["<annotations>"]
    for sample in asked[:2]:
        lines.append(
            f'<image name="{sample.file}" width="{sample.width}" height="{sample.height}">'
        )
        for index, name in enumerate(CLASSES):
            flat = (masks[sample.row] == index).ravel()
            cuts = np.flatnonzero(np.diff(flat)) + 1
            runs = np.diff([0, *cuts, len(flat)]).tolist()
            code = ",".join(map(str, [0, *runs] if flat[0] else runs))
            lines.append(
                f'<mask label="{name}" rle="{code}" left="0" top="0" width="{sample.width}" '
                f'height="{sample.height}" z_order="0"/>'
            )
        lines.append("</image>")
    (tmp_path / "a.xml").write_text("\n".join([*lines, "</annotations>"]))
    annotations, faults, _ = match(request, read_export(tmp_path / "a.xml"))
    assert not faults
    for row, mask in masks.items():
        assert np.array_equal(annotations[row][1], mask)


def test_brushes_of_any_runs_come_back() -> None:
    rng = np.random.default_rng(24)
    for height, width in [*SIZES, (300, 300)]:
        for share in (0.0, 0.001, 0.5, 1.0):
            mask = rng.random((height, width)) < share
            assert np.array_equal(decode_mask(encode_mask(mask), height, width), mask)


@pytest.mark.parametrize("problem", ["detection", "pose", "segmentation"])
def test_pre_annotations_keep_ids_order_and_confidences(tmp_path: Path, problem: str) -> None:
    rng = np.random.default_rng(25)
    asked = rows(rng)[:6]
    request = request_of(problem, asked, CLASSES)
    guesses: dict[str, Any] = {}
    for sample in asked:
        if problem == "detection":
            guesses[sample.row] = some_boxes(rng, sample)
        elif problem == "pose":
            guesses[sample.row] = Joints(np.zeros((3, 2)), rng.random(3, np.float32))
        else:
            guesses[sample.row] = rng.integers(0, 3, (sample.height, sample.width)).astype(np.uint8)
    written(tmp_path / "ask", request, guesses)
    tasks = json.loads((tmp_path / "ask/label_studio.json").read_text())
    assert [task["data"]["row"] for task in tasks] == [sample.row for sample in asked]
    inputs = json.loads((tmp_path / "ask/cvat_coco.json").read_text())
    assert [i["file_name"] for i in inputs["images"]] == [sample.file for sample in asked]
    assert [i["id"] for i in inputs["images"]] == list(range(1, 7))
    ids = [a["id"] for a in inputs["annotations"]]
    assert ids == list(range(1, len(ids) + 1))
    results = [r for task in tasks for r in task["predictions"][0]["result"]]
    assert len({r["id"] for r in results}) == len(results)
    for task, image, sample in zip(tasks, inputs["images"], asked, strict=True):
        (prediction,) = task["predictions"]
        assert prediction["score"] == sample.confidence
        own = [a["score"] for a in inputs["annotations"] if a["image_id"] == image["id"]]
        scores = [r["score"] for r in prediction["result"] if "score" in r]
        if problem == "detection":
            expected = guesses[sample.row].scores.tolist()
            assert own == scores == expected
        elif problem == "pose":
            assert scores == guesses[sample.row].scores.tolist()
            assert own == [sample.confidence]
        else:
            assert set(own) == {sample.confidence}


def coco_document(rng: np.random.Generator, count: int = 8) -> dict[str, Any]:
    """Ids with gaps and in no order, decimals of all digits, and fields that are none of ours."""
    ids = rng.permutation(1000)[:count].tolist()
    images = [
        {"id": i, "file_name": f"{i}.png", "width": 48, "height": 40} for i in ids
    ]  # fmt: skip
    annotations = []
    for n, number in enumerate(rng.permutation(10**6)[: 3 * count].tolist()):
        x, y = (rng.random(2) * 20).tolist()
        annotations.append({
            "id": number, "image_id": ids[n % count], "category_id": [7, 3][n % 2],
            "bbox": [x, y, *(1 + rng.random(2) * 19).tolist()], "area": float(rng.random()),
            "iscrowd": 0, "score": float(rng.random()), "note": "ours",
        })  # fmt: skip
    return {
        "images": images, "annotations": annotations,
        "categories": [{"id": 7, "name": "tri"}, {"id": 3, "name": "disc"}],
    }  # fmt: skip


def pictures(folder: Path, document: dict[str, Any]) -> Path:
    from PIL import Image

    folder.mkdir()
    for image in document["images"]:
        Image.new("RGB", (48, 40)).save(folder / image["file_name"])
    return folder


def test_a_coco_document_goes_through_a_manifest_unaltered(tmp_path: Path) -> None:
    for seed in range(5):
        document = coco_document(np.random.default_rng(seed))
        root = tmp_path / str(seed)
        root.mkdir()
        folder = pictures(root / "images", document)
        (root / "a.json").write_text(json.dumps(document))
        out = build_manifest(
            folder, problem="detection", out=root / "m.yaml", annotations=root / "a.json"
        )
        copied = read_coco(root / "m.rows.json")
        assert copied["annotations"] == document["annotations"]
        assert copied["categories"] == document["categories"]
        assert [i["id"] for i in copied["images"]] == [i["id"] for i in document["images"]]
        split = read_split(open_manifest(out), "adapt")
        boxes = {
            name: split.labels[row].boxes  # type: ignore[index]
            for row, name in enumerate(split.names)
        }
        for image in document["images"]:
            if image["file_name"] not in boxes:
                continue
            own = [a["bbox"] for a in document["annotations"] if a["image_id"] == image["id"]]
            exact = np.array([[x, y, x + w, y + h] for x, y, w, h in own]).astype(np.float32)
            assert np.array_equal(boxes[image["file_name"]], exact)


def test_run_lengths_of_coco_are_those_of_its_own_library(tmp_path: Path) -> None:
    rng = np.random.default_rng(26)
    document = coco_document(rng, 3)
    masks = []
    for image, entry in zip(document["images"], document["annotations"], strict=False):
        mask = (rng.random((40, 48)) < 0.3).astype(np.uint8)
        code = codec.encode(np.asfortranarray(mask))
        entry |= {
            "image_id": image["id"],
            "segmentation": {"size": code["size"], "counts": code["counts"].decode()},
        }
        masks.append(mask.astype(bool))
    document["annotations"] = document["annotations"][:3]
    (tmp_path / "a.json").write_text(json.dumps(document))
    back = read_export(tmp_path / "a.json")
    for one, mask in zip(back, masks, strict=True):
        assert np.array_equal(one.regions[0].bits, mask)
