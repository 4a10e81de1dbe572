"""Images of sizes of their own on disk, and masks beside them."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from sfda.errors import BadInput
from sfda.images.decode import decode_images
from sfda.images.store import Ragged, RaggedWriter, images_at, images_between, open_ragged
from sfda.problems.segmentation.labels import keep_masks
from sfda.refs import InputSpec

TILED = InputSpec(size=(8, 8), tiled=True, mean=(0, 0, 0), std=(1, 1, 1))
FRAMES = InputSpec(size=(4, 6), mean=(0, 0, 0), std=(1, 1, 1))
SIZES = ((5, 7), (20, 3), (9, 9))
SAME = np.arange(256, dtype=np.uint8)


class Shown:
    """Images and masks of several sizes."""

    def __init__(self, broken: int | None = None) -> None:
        rng = np.random.default_rng(0)
        self.images = [rng.integers(0, 256, (*size, 3)).astype(np.uint8) for size in SIZES]
        self.masks = [rng.integers(0, 3, size).astype(np.uint8) for size in SIZES]
        self.broken, self.read = broken, 0

    def __len__(self):
        return len(self.images)

    def image(self, row, window=None):
        self.read += 1
        if row == self.broken:
            raise BadInput(f"image {row} is broken")
        return self.images[row]

    def mask(self, row):
        if row == self.broken:
            raise BadInput(f"mask {row} is broken")
        return self.masks[row]


def test_images_come_back_as_they_were_one_or_several(tmp_path):
    shown = Shown()
    remaining = decode_images(shown, TILED, tmp_path, key="k")
    assert isinstance(remaining, Ragged)
    assert [remaining[row].shape[:2] for row in range(3)] == list(SIZES)
    for row, image in enumerate(shown.images):
        np.testing.assert_array_equal(remaining[row], image)
    for rows in (np.array([2, 0]), slice(0, 2)):
        got = remaining[rows]
        expected = np.arange(3)[rows]
        assert all((a == shown.images[i]).all() for a, i in zip(got, expected, strict=True))
    again = pickle.loads(pickle.dumps(remaining))
    np.testing.assert_array_equal(again[1], shown.images[1])
    assert len(pickle.dumps(remaining)) < 500  # a worker is not sent the images


@pytest.mark.parametrize("spec", [TILED, FRAMES])
def test_some_of_them_are_a_view_that_workers_get_without_the_images(tmp_path, spec):
    whole = decode_images(Shown(), spec, tmp_path, key="k")
    some = images_at(whole, np.array([2, 0]))
    for view in (some, pickle.loads(pickle.dumps(some))):
        assert len(view) == 2
        np.testing.assert_array_equal(view[0], whole[2])
        np.testing.assert_array_equal(view[1], whole[0])
        for rows in (np.array([1, 0, 1]), slice(1, 2), slice(None)):
            expected = [whole[int(n)] for n in np.array([2, 0])[rows]]
            assert len(view[rows]) == len(expected)
            for one, other in zip(view[rows], expected, strict=True):
                np.testing.assert_array_equal(one, other)
        np.testing.assert_array_equal(images_at(view, np.array([1]))[0], whole[0])
        np.testing.assert_array_equal(images_between(view, 1, 2)[0], whole[0])
    assert images_between(some, 0, 2) is some
    assert len(pickle.dumps(some)) < 1000
    if spec is FRAMES:
        assert some.shape == (2, 4, 6, 3)


def test_rows_of_a_slice_or_of_an_array_in_memory_are_pickled_as_they_are(tmp_path):
    whole = decode_images(Shown(), FRAMES, tmp_path, key="k")
    for stack in (whole[1:], np.array(whole)[1:]):
        again = pickle.loads(pickle.dumps(images_at(stack, np.array([1, 0]))))
        np.testing.assert_array_equal(again[0], whole[2])
        np.testing.assert_array_equal(again[1], whole[1])


def test_they_are_decoded_once(tmp_path):
    shown = Shown()
    decode_images(shown, TILED, tmp_path, key="k")
    decode_images(shown, TILED, tmp_path, key="k")
    assert shown.read == 3
    assert [p.name for p in tmp_path.iterdir()] == ["k.ragged"]


def test_a_file_that_is_not_whole_is_made_anew(tmp_path):
    shown = Shown()
    decode_images(shown, TILED, tmp_path, key="k")
    path = tmp_path / "k.ragged"
    whole = path.read_bytes()
    for spoilt in (whole[:-1], whole[:40] + whole[41:], b""):
        path.write_bytes(spoilt)
        assert open_ragged(path, 3) is None
        np.testing.assert_array_equal(
            decode_images(shown, TILED, tmp_path, key="k")[2], shown.images[2]
        )
        assert path.read_bytes() == whole


def test_a_broken_image_leaves_nothing(tmp_path):
    with pytest.raises(BadInput, match="1 of 3 images cannot be used: image 1 is broken"):
        decode_images(Shown(broken=1), TILED, tmp_path, key="k")
    assert not list(tmp_path.iterdir())


def test_an_empty_store_is_whole(tmp_path):
    with (tmp_path / "none").open("wb") as handle:
        RaggedWriter(handle).finish()
    assert open_ragged(tmp_path / "none", 1) is None


def test_masks_keep_their_own_size_or_take_the_images(tmp_path):
    shown = Shown()
    table = SAME.copy()
    table[2] = 255
    tiled = keep_masks(shown, 3, TILED, tmp_path, table=table)
    assert (tiled[0][..., 0] == table[shown.masks[0]]).all()
    frames = keep_masks(shown, 3, FRAMES, tmp_path, table=table)
    assert frames.shape == (3, 4, 6)
    assert set(np.unique(frames)) <= {0, 1, 255}
    rows = (np.arange(4) + 0.5) * 9 // 4
    columns = (np.arange(6) + 0.5) * 9 // 6
    nearest = shown.masks[2][rows.astype(int)][:, columns.astype(int)]
    assert (frames[2] == table[nearest]).all()


def test_other_masks_lie_in_another_file(tmp_path):
    shown = Shown()
    keep_masks(shown, 3, FRAMES, tmp_path, table=SAME)
    keep_masks(shown, 3, FRAMES, tmp_path, table=SAME)
    assert len(list(tmp_path.iterdir())) == 1
    shown.masks[1] = 1 - shown.masks[1].clip(0, 1)
    keep_masks(shown, 3, FRAMES, tmp_path, table=SAME)
    assert len(list(tmp_path.iterdir())) == 2


def test_every_broken_mask_is_named_and_nothing_is_kept(tmp_path):
    with pytest.raises(BadInput, match="1 of 3 masks cannot be used: mask 2 is broken"):
        keep_masks(Shown(broken=2), 3, FRAMES, tmp_path, table=SAME)
    assert not list(tmp_path.iterdir())
