"""Layers that pool regions use their kernel, and what was deterministic before is so afterwards."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn
from torchvision.ops import RoIAlign

from sfda.networks.pooling import keep_cuda_pooling_


@pytest.fixture(autouse=True)
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


class Watching(nn.Module):
    """A layer by the name of torchvision's, which sees the switch and may fail."""

    def __init__(self, *, fails: bool) -> None:
        super().__init__()
        self.fails = fails
        self.seen: list[bool] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append(torch.are_deterministic_algorithms_enabled())
        if self.fails:
            raise RuntimeError("no memory")
        return x


Watching.__name__ = RoIAlign.__name__


@pytest.mark.parametrize("fails", [False, True])
def test_the_switch_is_off_inside_and_back_on_afterwards(fails: bool) -> None:
    network = nn.Sequential(Watching(fails=fails))
    keep_cuda_pooling_(network)
    if fails:
        with pytest.raises(RuntimeError, match="no memory"):
            network(torch.zeros(1))
    else:
        network(torch.zeros(1))
    assert network[0].seen == [False]
    assert torch.are_deterministic_algorithms_enabled()
    assert torch.is_deterministic_algorithms_warn_only_enabled()


def test_where_nothing_is_deterministic_nothing_is_switched_on() -> None:
    torch.use_deterministic_algorithms(False)
    network = nn.Sequential(Watching(fails=False))
    keep_cuda_pooling_(network)
    network(torch.zeros(1))
    assert not torch.are_deterministic_algorithms_enabled()
