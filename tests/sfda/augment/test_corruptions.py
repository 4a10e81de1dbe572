"""Shifts of images: seeded, of all kinds, and photometric ones move nothing."""

from __future__ import annotations

import numpy as np
import pytest

from sfda.augment.corruptions import MOVING, shifted, shuffled_patches
from sfda.rehearsal.shifts import PHOTOMETRIC

IMAGE = np.random.default_rng(0).integers(60, 200, (32, 32, 3), dtype=np.uint8)


@pytest.mark.parametrize("kind", [*PHOTOMETRIC, "negative", *MOVING])
def test_a_shift_is_a_function_of_its_seed_and_grows_with_its_severity(kind):
    smooth = np.repeat(np.linspace(40, 220, 32)[:, None, None], 32, 1).repeat(3, 2)
    smooth[8:24, 8:24, 0] = 30
    image = smooth.astype(np.uint8)
    once = shifted(image, kind, 2, 5)
    assert (once.shape, once.dtype) == (image.shape, image.dtype)
    assert np.array_equal(once, shifted(image, kind, 2, 5))
    far = [np.abs(shifted(image, kind, s, 5).astype(float) - image).mean() for s in (1, 2, 3)]
    assert far == sorted(far)
    assert far[0] > 0


@pytest.mark.parametrize("kind", [*PHOTOMETRIC, "negative"])
def test_a_photometric_shift_leaves_an_edge_where_it_was(kind):
    image = np.full((32, 32, 3), 60, np.uint8)
    image[:, 16:] = 190
    image[..., 2] //= 2  # it has a colour
    rows = shifted(image, kind, 1, 3).astype(float).mean(2)
    middle = np.abs(np.diff(rows.mean(0)))[12:20]
    assert int(middle.argmax()) + 12 == 15  # between columns 15 and 16


def test_grey_images_stay_grey_and_blue_first_images_are_shifted_in_their_own_colours():
    grey = IMAGE[..., :1]
    assert shifted(grey, "noise", 1, 0).shape == grey.shape
    assert np.array_equal(shifted(grey, "negative", 1, 0), 255 - grey)
    other = shifted(IMAGE[..., ::-1], "colour", 2, 0, bgr=True)
    assert np.array_equal(other[..., ::-1], shifted(IMAGE, "colour", 2, 0))


def test_shuffled_patches_are_the_same_pixels_in_another_order():
    out = shuffled_patches(IMAGE, 1)
    assert not np.array_equal(out, IMAGE)
    assert np.array_equal(np.sort(out.ravel()), np.sort(IMAGE.ravel()))
    assert np.array_equal(out, shuffled_patches(IMAGE, 1))
    assert not np.array_equal(out, shuffled_patches(IMAGE, 2))
