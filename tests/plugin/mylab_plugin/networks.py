"""MyLab: a family of networks, `--arch mylab:small`."""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from sfda.networks.families._base import Answer, Family
from sfda.refs import InputSpec


class MyLab(Family):
    """One small classifier."""

    answers: ClassVar[frozenset[Answer]] = frozenset({"classes"})
    forms: ClassVar = {"classes": "mylab:small"}

    def known(self, name: str, answer: Answer) -> str | None:
        """There is one."""
        return name if name == "small" else None

    def input(self, name: str, answer: Answer) -> InputSpec:
        """Gray images of 16 pixels."""
        return InputSpec(size=(16, 16), channels="gray", mean=(0.5,), std=(0.5,))

    def build(self, name: str, answer: Answer, outputs: int, depth: int) -> nn.Module:
        """Two convolutions and a linear layer."""
        return nn.Sequential(
            nn.Conv2d(depth, 8, 3, stride=2, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 16, 3, stride=2, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(16, outputs),
        )
