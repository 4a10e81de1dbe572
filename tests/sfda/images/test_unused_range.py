"""Images of 10, 12 or 14 bits in 16: that they are nearly black is said, and how to see them."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flows.cli.model_input import stated_input
from sfda.authoring.from_folder import build_manifest
from sfda.errors import BadInput
from sfda.images.decode import decode_images
from sfda.manifests.opening import open_manifest
from sfda.manifests.rows import read_split
from sfda.manifests.verify import verify_manifest

SIDE = 16
SHADES = np.linspace(0, 1, SIDE * SIDE).reshape(SIDE, SIDE)


def deep(folder: Path, most: int, kind: str) -> Path:
    """A manifest of four images whose intensities go up to `most`."""
    (folder / "img").mkdir(parents=True)
    wide = np.int32 if kind == "32 bits" else np.uint16
    for number in range(4):
        pixels = (SHADES * most).round().astype(wide)
        suffix = "png" if kind == "png" else "tif"
        Image.fromarray(pixels).save(folder / "img" / f"{number}.{suffix}")
    return build_manifest(folder / "img", problem="classification", out=folder / "m.yaml")


@pytest.mark.parametrize(
    ("most", "kind", "window"),
    [
        (1023, "tif", "0,1023"),
        (4095, "png", "0,4095"),
        (16000, "png", "0,16383"),
        (255, "32 bits", "0,255"),
        (200, "tif", "0,255"),
    ],
)
def test_what_is_said_makes_them_visible(
    most: int, kind: str, window: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    manifest = deep(tmp_path, most, kind)
    report = verify_manifest(manifest)
    assert report.ok
    assert f"intensities from 0 to {most}" in report.notes[0]
    assert f"--window {window}, or --window percentile" in report.notes[0]
    split = read_split(open_manifest(manifest), "adapt")

    def seen(stated: str | None) -> int:
        spec = stated_input(
            "sfda:tiny", "classification", new=True, size=str(SIDE), channels="gray", window=stated
        )
        assert spec is not None
        pictures = decode_images(split, spec, tmp_path / f"{stated}", key="k")
        return int(np.asarray(pictures).max())

    with caplog.at_level(logging.WARNING, "sfda"):
        assert seen(None) <= 63
        assert "no image is brighter than" in caplog.text
        caplog.clear()
        assert seen(window) > 190
        assert seen("percentile") == 255
        assert not caplog.text


@pytest.mark.parametrize("most", [20000, 65535])
def test_a_range_that_is_used_is_not_talked_of(most: int, tmp_path: Path) -> None:
    assert verify_manifest(deep(tmp_path, most, "png")).notes == ()


def test_dark_pictures_of_eight_bits_are_what_they_are(tmp_path: Path) -> None:
    (tmp_path / "img").mkdir()
    for number in range(3):
        Image.new("L", (SIDE, SIDE), 10).save(tmp_path / "img" / f"{number}.png")
    made = build_manifest(tmp_path / "img", problem="classification", out=tmp_path / "m.yaml")
    assert verify_manifest(made).notes == ()


@pytest.mark.parametrize("text", ["0", "4095,0", "dark", "0,1,2"])
def test_a_window_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match="window"):
        stated_input(
            "sfda:tiny", "classification", new=True, size="16", channels="gray", window=text
        )
