"""The demo's scenes: the same every time, readable as any other data, and shifted."""

from __future__ import annotations

import numpy as np
import pytest

from sfda.demo import scenes
from sfda.errors import BadInput
from sfda.manifests.opening import open_manifest
from sfda.manifests.rows import read_split
from sfda.manifests.verify import verify_manifest


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    return scenes.write_demo(tmp_path_factory.mktemp("demo"))


def test_both_domains_are_whole_and_have_every_class(demo):
    for path, sizes in zip(demo, (scenes.SOURCE, scenes.TARGET), strict=True):
        result = verify_manifest(path)
        assert result.faults == []
        assert result.count == sum(sizes.values())
        assert result.classes == scenes.CLASSES
        for name, size in sizes.items():
            split = read_split(open_manifest(path), name)
            assert len(split) == size
            seen = np.unique([split.labels.mask(row) for row in range(size)])
            assert seen.tolist() == [0, 1, 2, 3, 4]


def test_images_and_masks_are_those_drawn(demo):
    split = read_split(open_manifest(demo[1]), "test")
    row, number = 7, scenes.TARGET["adapt"] + 7
    drawn = scenes.at_dusk(number)
    assert (split.image(row) == drawn.image).all()  # red is red in the file too
    assert (split.labels.mask(row) == drawn.mask).all()


def test_the_same_bytes_every_time(demo, tmp_path):
    again = scenes.write_demo(tmp_path)
    for one, other in zip(demo, again, strict=True):
        for suffix in (".yaml", ".csv", ".zip"):
            assert one.with_suffix(suffix).read_bytes() == other.with_suffix(suffix).read_bytes()


def test_dusk_is_darker_and_no_scene_is_in_both_domains(demo):
    day = np.stack([scenes.by_day(n).image for n in range(20)]).astype(float)
    dusk = np.stack([scenes.at_dusk(n).image for n in range(20)]).astype(float)
    assert dusk.mean() < 0.75 * day.mean()
    assert not (scenes.by_day(0).mask == scenes.at_dusk(0).mask).all()


def test_a_place_that_cannot_be_written_to_is_bad_input(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="cannot write the demo's data"):
        scenes.write_demo(tmp_path / "file" / "below")
