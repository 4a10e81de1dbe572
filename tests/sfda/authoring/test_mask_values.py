"""Masks of 0 and 255: the organ is not taken for what does not count, in whatever way they lie."""

from __future__ import annotations

import logging
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from sfda.authoring.from_folder import build_manifest
from sfda.authoring.from_masks import MaskOptions
from sfda.errors import BadInput
from sfda.manifests.opening import open_manifest
from sfda.manifests.rows import read_split
from sfda.manifests.verify import verify_manifest
from sfda.problems.segmentation.metrics import SegmentationMetric

SIDE = 16
DRAWN = np.zeros((SIDE, SIDE), dtype=np.uint8)
DRAWN[4:10, 4:10] = 255
TWO = ("tissue", "organ")


def palette(mask: np.ndarray[Any, Any]) -> Image.Image:
    image = Image.fromarray(mask, "P")
    image.putpalette([number for number in range(256) for _ in range(3)])
    return image


def with_alpha(mask: np.ndarray[Any, Any], mode: str) -> Image.Image:
    return Image.fromarray(mask).convert(mode)


SAVED: dict[str, tuple[str, Callable[[np.ndarray[Any, Any]], Image.Image]]] = {
    "grey": ("png", Image.fromarray),
    "16 bit": ("png", lambda mask: Image.fromarray(mask.astype(np.uint16))),
    "TIFF": ("tif", Image.fromarray),
    "float": ("tif", lambda mask: Image.fromarray(mask.astype(np.float32))),
    "LA": ("png", lambda mask: with_alpha(mask, "LA")),
    "RGB": ("png", lambda mask: with_alpha(mask, "RGB")),
    "RGBA": ("png", lambda mask: with_alpha(mask, "RGBA")),
    "palette": ("png", palette),
    "inverted": ("png", lambda mask: Image.fromarray(255 - mask)),
}


def folder_of(tmp_path: Path, kind: str, mask: np.ndarray[Any, Any] = DRAWN) -> Path:
    folder = tmp_path / "images"
    suffix, save = SAVED[kind]
    for name in ("img", "masks"):
        (folder / name).mkdir(parents=True)
    for number in range(5):
        Image.fromarray(np.full((SIDE, SIDE), 40 * number, np.uint8)).save(
            folder / "img" / f"{number}.png"
        )
        save(mask).save(folder / "masks" / f"{number}.{suffix}")
    return folder


def npz_of(folder: Path) -> Path:
    path = folder.with_suffix(".npz")
    masks = np.stack([DRAWN] * 5)
    np.savez(path, images=np.zeros((5, SIDE, SIDE), np.uint8), masks=masks)
    return path


def zip_of(folder: Path) -> Path:
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as packed:
        for file in sorted(folder.rglob("*.png")):
            packed.write(file, file.relative_to(folder))
    return path


def made(path: Path, classes: tuple[str, ...] = TWO, **typed: Any) -> Path:
    texts = {"folder": "masks", "values": None, "ignore": None, "groups": None, "spacing": None}
    options = MaskOptions.from_text(**(texts | typed))
    out = path.parent / "m.yaml"
    return build_manifest(path, problem="segmentation", classes=classes, out=out, masks=options)


@pytest.mark.parametrize("kind", [*SAVED, "zip", "npz"])
def test_the_organ_is_asked_for_and_understood_as_it_is_answered(kind: str, tmp_path: Path) -> None:
    folder = folder_of(tmp_path, kind if kind in SAVED else "grey")
    path = {"zip": zip_of, "npz": npz_of}.get(kind, lambda folder: folder)(folder)
    with pytest.raises(
        BadInput, match=r"class (organ|tissue) has no pixel .* --values 0,255 "
    ) as e:
        made(path)
    assert "--ignore 255" in str(e.value)
    assert not (tmp_path / "m.yaml").exists()
    manifest = made(path, values="0,255")
    assert verify_manifest(manifest).ok
    split = read_split(open_manifest(manifest), "test")
    mask = split.labels.mask(0)  # type: ignore[union-attr]
    shown = 255 - DRAWN if kind == "inverted" else DRAWN
    assert np.array_equal(mask, shown // 255)


def test_an_older_manifest_of_such_masks_has_a_fault(tmp_path: Path) -> None:
    manifest = made(folder_of(tmp_path, "grey"), values="0,255")
    document = yaml.safe_load(manifest.read_text())
    document["ignore"] = 255
    del document["values"]
    manifest.write_text(yaml.safe_dump(document))
    report = verify_manifest(manifest)
    assert not report.ok
    assert "class organ has no pixel in any mask, and 14.1% of the pixels" in report.faults[0]
    assert "`ignore: null`" in report.faults[0]


def test_of_three_classes_it_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """{0, 1, 255} with 255 for what does not count stays the norm."""
    three = (*TWO, "vessel")
    mask = DRAWN.copy()
    mask[0, :8] = 1
    with caplog.at_level(logging.WARNING, "sfda"):
        manifest = made(folder_of(tmp_path, "grey", mask), three)
    assert "class vessel has no pixel" in caplog.text
    report = verify_manifest(manifest)
    assert report.ok
    assert "--values 0,1,255" in report.notes[0]
    caplog.clear()
    again = made(tmp_path / "images", TWO)
    assert not caplog.text
    assert verify_manifest(again).notes == ()


def test_a_person_s_word_counts(tmp_path: Path) -> None:
    assert verify_manifest(made(folder_of(tmp_path, "grey"), ignore="255")).faults


def test_other_values_of_as_many_classes_are_named(tmp_path: Path) -> None:
    mask = DRAWN.copy()
    mask[0] = 128
    folder = folder_of(tmp_path, "grey", mask)
    three = (*TWO, "vessel")
    with pytest.raises(BadInput, match=r"the values 0, 128, 255, .* --values 0,128,255"):
        made(folder, three)
    assert verify_manifest(made(folder, three, values="0,128,255")).ok


def test_colours_stay_refused(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "grey")
    red = np.stack([DRAWN, DRAWN * 0, DRAWN * 0], -1)
    for file in (folder / "masks").iterdir():
        Image.fromarray(red).save(file)
    faults = verify_manifest(made(folder, values="0,255")).faults
    assert len(faults) == 5
    assert "is a colour image" in faults[0]


def test_a_metric_for_want_of_truth_is_said() -> None:
    metric = SegmentationMetric(TWO)
    empty = np.zeros((4, 4), dtype=np.uint8)
    metric.update(empty, empty)
    assert metric.compute()["mean_iou"] == 1.0
    assert metric.note().startswith("the masks have no pixel of one class (organ): a mean")
    metric.update(empty, empty + 1)
    assert metric.note() == ""
