"""Toy shifts, a file each: a problem that a network of a few layers learns in a second or two.

A folder of toys: what each file defines is said by `Toy`, and a new file is found by its name.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from typing import Any, Protocol, cast

from torch import Tensor, nn

from sfda.building_blocks.boxes import Boxes
from sfda.building_blocks.heatmaps import PoseTargets
from sfda.settings import Schedule
from sfda.types import Scan, TargetBatch, TargetInfo

ToyLabels = Tensor | list[Boxes] | PoseTargets


class Toy(Protocol):
    """What a file here defines: a shift, a network and a source model that has learnt."""

    @property
    def PROBLEM(self) -> str:
        """The problem that it is a case of."""

    @property
    def SIZE(self) -> int:
        """N, images of the target."""

    @property
    def MILD(self) -> float:
        """A shift that costs the source something and that a method should not make worse."""

    @property
    def SLACK(self) -> float:
        """By how much `accuracy` may sink all the same: where it is a step function."""

    @property
    def ROUNDING(self) -> float:
        """By how much numbers differ that are equal but for the order of a sum."""

    @property
    def FAST(self) -> Schedule:
        """Three short epochs."""

    Batches: Any
    """`Batches(x)`: the target in shuffled batches, a pure function of the epoch."""

    def images(
        self, shift: float = 0.0, *, seed: int = 0, size: int = ...
    ) -> tuple[Tensor, ToyLabels]:
        """Images [N, C, H, W] as a network sees them, `shift` away from the source; labels."""

    def network(self) -> nn.Module:
        """A network with random weights, the same ones each time."""

    def source(self) -> nn.Module:
        """A fresh copy of the source model, in eval mode."""

    def info(self, size: int = ..., *, priors: Tensor | None = None) -> TargetInfo:
        """What a method may know of the target."""

    def batch(self, x: Tensor, rows: list[int] | Tensor) -> TargetBatch:
        """These rows, with a strong view that is a fixed disturbance of each."""

    def scan(self, x: Tensor) -> Scan:
        """A look at all of the target, in unequal parts."""

    def norm(self, model: nn.Module) -> nn.Module:
        """One of the layers that normalise."""

    def accuracy(self, model: nn.Module, x: Tensor, y: ToyLabels) -> float:
        """How good a network is, in [0, 1], in eval mode."""


@cache
def toys() -> tuple[Toy, ...]:
    """All of them, in the order of their names."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    return tuple(cast(Toy, importlib.import_module(f"{__name__}.{name}")) for name in names)


def toys_of(problem: str) -> tuple[Toy, ...]:
    """Those of a problem.

    >>> len(toys_of("detection"))
    2
    """
    return tuple(toy for toy in toys() if problem == toy.PROBLEM)
