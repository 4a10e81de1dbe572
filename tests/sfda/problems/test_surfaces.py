"""Surface distances: by hand, and against what another library says."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from sfda.problems.segmentation.metrics import assd, hd95, surface, surface_distances


def square(top, left, side=3, size=9):
    mask = np.zeros((size, size), bool)
    mask[top : top + side, left : left + side] = True
    return mask


def test_a_surface_is_what_an_erosion_takes_also_at_the_images_border():
    assert surface(square(2, 2)).sum() == 8  # all but the middle
    assert surface(square(0, 0)).sum() == 8
    assert surface(np.ones((3, 3, 3), bool)).sum() == 26


def test_distances_of_two_pixels_by_hand():
    one, other = np.zeros((5, 9), bool), np.zeros((5, 9), bool)
    one[1, 1] = other[4, 5] = True  # 3 rows and 4 columns apart
    assert hd95(one, other, (1, 1)) == assd(one, other, (1, 1)) == 5
    assert hd95(one, other, (2, 0.5)) == pytest.approx((6**2 + 2**2) ** 0.5)


def test_a_shift_by_one_pixel_by_hand():
    # of each's 8 surface pixels 4, at top and bottom, lie on the other's surface; the 3 of its own
    # column are 1 away, and so is the one at its middle that lies inside the other
    there, back = surface_distances(square(2, 2), square(2, 3), (1, 1))
    assert sorted(there.tolist()) == sorted(back.tolist()) == [0, 0, 0, 0, 1, 1, 1, 1]
    assert assd(square(2, 2), square(2, 3), (1, 1)) == pytest.approx(1 / 2)
    assert hd95(square(2, 2), square(2, 3), (1, 1)) == 1


def test_both_directions_are_taken_together():
    # a large square and one of its corner pixels: there 1 distance of 0, back up to the far corner
    large, small = square(0, 0, 8), square(0, 0, 1)
    there, back = surface_distances(small, large, (1, 1))
    assert there.tolist() == [0]
    assert len(back) == 28
    both = np.sort(np.concatenate([there, back]))
    assert hd95(small, large, (1, 1)) == pytest.approx(np.percentile(both, 95))
    assert hd95(small, large, (1, 1)) < back.max()


def test_an_empty_mask_has_no_distance():
    with pytest.raises(ValueError, match="undefined"):
        hd95(square(1, 1), np.zeros((9, 9), bool), (1, 1))


MONAI = [  # monai 1.6.1: get_mask_edges and get_surface_distance, both ways concatenated
    ((40, 50), (1.0, 1.0), [8.0, 6.0, 6.4031243], [3.2566285, 1.8577836, 2.7028625]),
    ((40, 50), (0.5, 2.0), [7.03893, 9.897885, 6.1846585], [2.1534793, 2.8857136, 2.266767]),
    ((12, 30, 30), (2.0, 1.25, 1.25), [22.007101, 8.003905, 10.832803],
     [7.4739456, 3.035059, 4.4819307]),
]  # fmt: skip


def test_monais_numbers():
    rng = np.random.default_rng(0)
    for shape, spacing, percentiles, means in MONAI:
        for expected, mean in zip(percentiles, means, strict=True):
            one = ndimage.gaussian_filter(rng.normal(size=shape), 3) > 0.02
            other = ndimage.gaussian_filter(rng.normal(size=shape), 3) > 0.03
            assert hd95(one, other, spacing) == pytest.approx(expected, rel=1e-6)
            assert assd(one, other, spacing) == pytest.approx(mean, rel=1e-6)
