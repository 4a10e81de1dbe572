"""Kept predictions of a segmenter: what lies on disk, and its profile."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch import nn

from sfda.errors import BadInput
from sfda.inference.predictions import verify_predictions
from sfda.inference.pseudo_labels import keep_pseudo_labels
from sfda.problems.segmentation.network import make_spec

CLASSES = ("sky", "road", "car")
ANSWERS = [
    (0, np.array([[0, 0, 1], [1, 1, 1]], np.uint8), np.full((2, 3), 255, np.uint8)),
    (1, np.array([[2]], np.uint8), np.full((1, 1), 51, np.uint8)),
]


@pytest.fixture
def kept(tmp_path):
    spec = make_spec("sfda:tinyunet", CLASSES)
    return keep_pseudo_labels(
        lambda _: iter(ANSWERS), nn.Identity(), spec, tmp_path / "kept", size=2, source_sha256="abc"
    )


def test_masks_confidences_and_ratios_are_those_given(kept):
    folder = Path(kept.folder)
    for row, mask, confidence in ANSWERS:
        assert (np.array(Image.open(folder / f"masks/{row:06d}.png")) == mask).all()
        assert (np.array(Image.open(folder / f"confidences/{row:06d}.png")) == confidence).all()
    assert np.load(folder / "ratios.npy") == pytest.approx(np.array([[1 / 3, 2 / 3, 0], [0, 0, 1]]))
    verify_predictions(kept)


def test_the_profile_counts_pixels(kept):
    profile = kept.profile
    assert profile["classes"] == {"sky": 2, "road": 4, "car": 1}
    assert profile["unit"] == "pixels"
    assert profile["mean_confidence"] == pytest.approx((6 + 0.2) / 7)
    assert profile["confidence_histogram"][-1] == 6
    assert profile["confidence_histogram"][4] == 1  # 51 / 255 = 0.2 begins the fifth bin
    assert sum(profile["confidence_histogram"]) == 7


def test_an_altered_mask_is_noticed(kept):
    Image.fromarray(np.zeros((2, 3), np.uint8)).save(Path(kept.folder) / "masks/000000.png")
    with pytest.raises(BadInput, match=r"000000\.png was altered"):
        verify_predictions(kept)
