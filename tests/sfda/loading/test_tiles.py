"""Tiles: every pixel is in one, and weights rise over the overlap."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from sfda.loading.tiles import blending, positions, tiles


@pytest.mark.parametrize("size", [(16, 24), (64, 60), (17, 25), (16, 70), (50, 24)])
def test_every_pixel_lies_in_a_tile_and_tiles_overlap_enough(size):
    counts = np.zeros(size, int)
    for folder in tiles(*size, (16, 24), overlap=(4, 6)):
        assert counts[folder].shape == (16, 24)
        counts[folder] += 1
    assert counts.min() >= 1
    for length, side, overlap in zip(size, (16, 24), (4, 6), strict=True):
        starts = positions(length, side, overlap)
        assert starts[-1] == length - side
        assert all(b - a <= side - overlap for a, b in itertools.pairwise(starts))


def test_a_side_shorter_than_a_tile_is_an_error():
    with pytest.raises(ValueError, match="no tiles of 16"):
        positions(15, 16, 0)


def test_weights_rise_from_the_border_and_are_one_inside():
    weight = blending((8, 9), (2, 3))
    assert weight.min() > 0
    assert (weight[2:-2, 3:-3] == 1).all()
    assert weight[0, 4] == pytest.approx(1 / 3)
    assert torch.equal(weight, weight.flip(0))
