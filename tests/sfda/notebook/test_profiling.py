"""Profiles in a notebook, and the method that follows them."""

from __future__ import annotations

from pathlib import Path

import pytest
import small
import torch

import sfda
from sfda.errors import BadInput

DULL = {"adapt": 160}


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    small.bundle(tmp_path / "toy")
    return tmp_path / "toy"


@pytest.fixture
def images() -> torch.Tensor:
    pixels = small.arrays(DULL, seed=2, dull=True)["x"]
    return torch.from_numpy(pixels)[:, None]


def test_few_images_are_better_labelled_and_auto_leaves_the_model(bundle, images):
    profile = sfda.profile(bundle, images[:48])
    assert "size" in profile.against
    assert profile.recommendation.text == "ask for labels"
    result = sfda.adapt(bundle, images[:48], method="auto", settings={"schedule": {"lr": 0.02}})
    assert result.method == "source"
    assert result.change == 0.0
    assert result.profile is not None
    assert result.profile.recommendation == profile.recommendation


def test_auto_adapts_where_nothing_speaks_against_it(bundle, images):
    prior = dict.fromkeys(small.CLASSES, 1.0)
    result = sfda.adapt(bundle, images, method="auto", epochs=1, prior=prior)
    assert result.profile is not None
    assert result.profile.against == ()
    assert result.method == "shot"


def test_a_profile_goes_with_a_method_that_is_named(bundle, images):
    result = sfda.adapt(bundle, images[:48], method="bn")
    assert result.method == "bn"
    assert result.profile is not None
    assert "size" in result.profile.against


def test_a_method_that_is_none_is_refused(bundle, images):
    with pytest.raises(BadInput, match="automatic"):
        sfda.profile(bundle, images, method="automatic")
