"""Weights between two models."""

from __future__ import annotations

import pytest
import torch

from sfda.errors import BadInput
from sfda.weights.interpolate import between

A = {"w": torch.tensor([0.0, 2.0]), "n": torch.tensor(3)}
B = {"w": torch.tensor([1.0, -2.0]), "n": torch.tensor(9)}


def test_a_step_moves_each_number_by_its_share() -> None:
    half = between(A, B, 0.25)
    assert half["w"].tolist() == [0.25, 1.0]
    assert half["n"].item() == 9  # a count is the candidate's
    assert half["w"].dtype == torch.float32


def test_the_ends_are_the_models_themselves() -> None:
    assert torch.equal(between(A, B, 0.0)["w"], A["w"])
    assert torch.equal(between(A, B, 1.0)["w"], B["w"])


def test_networks_of_other_shapes_have_nothing_between_them() -> None:
    with pytest.raises(BadInput, match="w differs in its shape"):
        between(A, {"w": torch.zeros(3), "n": torch.tensor(1)}, 0.5)
    with pytest.raises(BadInput, match="differs"):
        between(A, {"w": torch.zeros(2)}, 0.5)
    with pytest.raises(ValueError, match="not between"):
        between(A, B, 1.5)
