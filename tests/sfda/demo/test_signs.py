"""The built-in panels of signs: alike every time, sound, and what they say they show."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.ndimage import label

from sfda.demo.signs import CLASSES, TARGET, clear_panels, hazy_panels, write_demo
from sfda.manifests.opening import open_manifest
from sfda.manifests.rows import read_split
from sfda.manifests.verify import verify_manifest
from sfda.problems.multilabel.labels import ClassSets


def test_the_demo_is_sound_and_the_same_every_time(tmp_path: Path) -> None:
    paths = write_demo(tmp_path / "a"), write_demo(tmp_path / "b")
    for first, again in zip(*paths, strict=True):
        assert first.read_bytes() == again.read_bytes()
        assert first.with_suffix(".npz").read_bytes() == again.with_suffix(".npz").read_bytes()
        assert verify_manifest(first).ok, verify_manifest(first).faults
    source, target = (open_manifest(path) for path in paths[0])
    assert source.classes == target.classes == CLASSES
    assert set(source.splits) == {"train", "val"}
    truth, test = hazy_panels(), read_split(target, "test")
    assert isinstance(test.labels, ClassSets)
    assert len(test) == TARGET["test"]
    assert test.labels.flags.tolist() == truth.labels[truth.split == 1].tolist()
    np.testing.assert_array_equal(test.image(3), truth.images[truth.split == 1][3])


def test_a_panel_shows_as_many_signs_as_its_labels_say() -> None:
    panels = clear_panels()
    assert panels.images.shape == (600, 28, 28)
    counts = panels.labels.sum(1)
    assert set(counts.tolist()) == {0, 1, 2, 3, 4}
    assert (panels.labels.mean(0) > 0.35).all()
    # signs are white on dark and hardly ever touch: bright parts, but for specks, are the signs
    parts = []
    for image in panels.images:
        marked, number = label(image > 128)
        sizes = np.bincount(marked.ravel())[1:]
        parts.append(int((sizes > 8).sum()) if number else 0)
    assert (np.array(parts) == counts).mean() > 0.8
    assert (np.array(parts)[counts == 0] == 0).all()


def test_the_haze_is_brighter_and_has_less_contrast() -> None:
    clear, hazy = clear_panels().images, hazy_panels().images
    assert hazy.mean() > clear.mean() + 10
    span = [float((np.percentile(i, 99, (1, 2)) - np.percentile(i, 5, (1, 2))).mean())
            for i in (clear, hazy)]  # fmt: skip
    assert span[1] < 0.85 * span[0]
