"""A toy shift of several labels an image: sums of patterns, on another ground, and a small net."""

from __future__ import annotations

from functools import cache
from typing import cast

import torch
from torch import Tensor, nn

from sfda.problems.multilabel.network import MultilabelClassifier
from sfda.settings import Schedule
from sfda.testing.toys import classification as base
from sfda.types import TargetBatch, TargetInfo

PROBLEM = MultilabelClassifier.problem
CLASSES = 3
SIZE = 120
MILD = 0.7  # of ground, where a pattern is 1 high
SLACK = 0.0
ROUNDING = 1e-5
FAST = Schedule(lr=0.02, epochs=3, batch_size=24)
PATTERNS = torch.tensor(
    [[1.0, 1.0, 0, 0, 0, 1.0], [0, 0, 1.0, 1.0, 0, 1.0], [0, 1.0, 0, 1.0, 1.0, 0]]
)

Batches = base.Batches
scan = base.scan


def images(shift: float = 0.0, *, seed: int = 0, size: int = SIZE) -> tuple[Tensor, Tensor]:
    """Images [N, 1, 1, 6], paler, on a ground `shift` brighter; labels [N, 3] of 0 and 1."""
    generator = torch.Generator().manual_seed(seed)
    labels = (torch.rand(size, CLASSES, generator=generator) < 0.45).float()
    x = labels @ PATTERNS + 0.25 * torch.randn(size, 6, generator=generator)
    return ((1 - 0.2 * shift) * x + shift).view(-1, 1, 1, 6), labels


def network() -> MultilabelClassifier:
    """A network of all parts that a real one has."""
    torch.manual_seed(0)
    return MultilabelClassifier(
        nn.Sequential(nn.Flatten(), nn.Linear(6, 16), nn.Tanh()),
        nn.Sequential(nn.Linear(16, 8), nn.BatchNorm1d(8)),
        nn.Linear(8, CLASSES),
        feature_dim=8,
        num_classes=CLASSES,
    )


@cache
def _trained() -> MultilabelClassifier:
    model, (x, y) = network(), images()
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(120):
        optimizer.zero_grad()
        nn.functional.binary_cross_entropy_with_logits(model(x).logits, y).backward()
        optimizer.step()
    return model.eval()


def source() -> MultilabelClassifier:
    """A fresh copy of the trained source model."""
    model = network()
    model.load_state_dict(_trained().state_dict())
    return model.eval()


def info(size: int = SIZE, *, priors: Tensor | None = None) -> TargetInfo:
    """What a method may know of the toy target."""
    return base.info(size, priors=priors)


def batch(x: Tensor, rows: list[int] | Tensor) -> TargetBatch:
    """A batch of these rows; the strong view is a fixed disturbance of each row."""
    return base.batch(x, rows)


def norm(model: MultilabelClassifier) -> nn.Module:
    """One of its batch-norm layers."""
    return cast(nn.Sequential, model.bottleneck)[1]


def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Share of right answers over images and classes, in eval mode."""
    model.eval()
    with torch.no_grad():
        return float(((model(x).logits >= 0) == (y == 1)).double().mean())
