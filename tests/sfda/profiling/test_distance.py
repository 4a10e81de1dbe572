"""Distances of a target from the source, against what chance makes of them; by hand."""

import numpy as np
import pytest

from sfda.profiling.distance import (
    batch_distance,
    expected_number,
    neighbour_correlation,
    share_of_noise,
)
from sfda.profiling.statistics import Channels


def layer(mean: float, rng: np.random.Generator, images: int = 400) -> Channels:
    means = rng.normal(mean, 2.0, (images, 50)).astype(np.float32)
    return Channels(means, np.zeros(50, np.float32), np.full(50, 4.0, np.float32))


def test_a_target_like_the_source_is_nearer_than_batches_are_to_each_other():
    same = batch_distance([layer(0.0, np.random.default_rng(0))])
    assert same.figure < same.limit
    # a batch of 64 is off by |N(0, 1/64)|, 0.1 in the mean, and hardly by more over 50 channels
    assert same.limit == pytest.approx(0.8 / 8, rel=0.3)


def test_a_moved_target_is_further_by_what_it_was_moved():
    moved = batch_distance([layer(1.0, np.random.default_rng(0))])
    assert moved.figure == pytest.approx(0.5, abs=0.05)
    assert moved.figure > moved.limit


def test_the_distance_is_the_mean_over_layers():
    rng = np.random.default_rng(1)
    one, other = layer(1.0, rng), layer(3.0, rng)
    both = batch_distance([one, other]).figure
    assert both == pytest.approx(
        (batch_distance([one]).figure + batch_distance([other]).figure) / 2
    )


def test_no_layers_are_no_distance():
    with pytest.raises(ValueError, match="no layers"):
        batch_distance([])


def test_few_images_of_many_classes_are_expected_to_show_fewer():
    assert expected_number([1.0] * 100, 100_000) == pytest.approx(100, abs=0.1)
    assert expected_number([1.0] * 100, 50) < 45


def test_white_noise_beside_pictures_is_told_apart():
    rng = np.random.default_rng(0)
    pictures = rng.normal(0.8, 0.05, 60)
    noise = rng.normal(0.0, 1 / np.sqrt(700), 40)
    assert share_of_noise(np.concatenate([pictures, noise]), 700) == pytest.approx(0.4)


@pytest.mark.parametrize(
    "correlations",
    [
        np.random.default_rng(0).normal(0.0, 0.04, 100),  # features that are stored as images
        np.random.default_rng(1).uniform(0.0, 0.4, 100),  # a noisy camera
        np.random.default_rng(2).normal(0.8, 0.05, 100),  # pictures
        np.concatenate([np.full(50, 0.4), np.full(50, 0.9)]),  # two kinds of pictures
    ],
    ids=["features", "noisy camera", "pictures", "two kinds"],
)
def test_one_group_of_images_is_not_called_noise(correlations):
    assert share_of_noise(correlations, 700) == 0.0


def test_the_correlation_is_that_of_neighbours_in_a_row():
    rng = np.random.default_rng(0)
    static = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    ramp = np.tile(np.arange(64, dtype=np.uint8)[None, :, None], (64, 1, 3))
    assert abs(neighbour_correlation(static)) < 0.07
    assert neighbour_correlation(ramp) == pytest.approx(1.0)
