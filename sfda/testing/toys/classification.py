"""A toy domain shift: three blobs in the plane, and a classifier that learns them in a second."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import cast

import torch
from torch import Tensor, nn

from sfda.problems.classification.network import Classifier
from sfda.settings import Schedule
from sfda.types import Scan, Seen, TargetBatch, TargetInfo

PROBLEM = Classifier.problem
CLASSES = 3
SIZE = 120
MILD = 0.8  # radians; the border between two classes lies at 1.05
SLACK = 0.0  # of accuracy, that noise may cost
ROUNDING = 1e-5
FAST = Schedule(lr=0.02, epochs=3, batch_size=24)


def images(shift: float = 0.0, *, seed: int = 0, size: int = SIZE) -> tuple[Tensor, Tensor]:
    """Blobs as images [N, 1, 1, 2], turned by `shift` radians, and their labels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(size) % CLASSES
    angle = labels * (2 * torch.pi / CLASSES) + shift
    points = 2 * torch.stack([angle.cos(), angle.sin()], 1)
    return (points + 0.35 * torch.randn(size, 2, generator=generator)).view(-1, 1, 1, 2), labels


def network() -> Classifier:
    """A classifier of points, with all parts that a real one has."""
    torch.manual_seed(0)
    return Classifier(
        nn.Sequential(nn.Flatten(), nn.Linear(2, 16), nn.Tanh()),
        nn.Sequential(nn.Linear(16, 8), nn.BatchNorm1d(8)),
        nn.Linear(8, CLASSES),
        feature_dim=8,
        num_classes=CLASSES,
    )


@cache
def _trained() -> Classifier:
    model, (x, y) = network(), images()
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(120):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x).logits, y).backward()
        optimizer.step()
    return model.eval()


def source() -> Classifier:
    """A fresh copy of the trained source model."""
    model = network()
    model.load_state_dict(_trained().state_dict())
    return model.eval()


def info(size: int = SIZE, *, priors: Tensor | None = None) -> TargetInfo:
    """What a method may know of the toy target."""
    return TargetInfo(size, tuple(f"row-{i}" for i in range(size)), priors=priors)


def batch(x: Tensor, rows: list[int] | Tensor) -> TargetBatch:
    """A batch of these rows; the strong view is a fixed disturbance of each row."""
    rows = torch.as_tensor(rows)
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(9))
    return TargetBatch(rows, x[rows], strong=x[rows] + 0.1 * noise[rows])


class Batches:
    """The toy target in shuffled batches, a pure function of the epoch."""

    def __init__(self, x: Tensor, size: int = 24) -> None:
        self.x, self.size = x, size

    def steps(self, rows: Tensor | None = None) -> int:
        """Batches of an epoch."""
        return -(-(len(self.x) if rows is None else len(rows)) // self.size)

    def epoch(self, epoch: int, rows: Tensor | None = None) -> Iterator[TargetBatch]:
        """Those rows in batches."""
        every = torch.arange(len(self.x)) if rows is None else rows
        order = torch.randperm(len(every), generator=torch.Generator().manual_seed(epoch))
        for part in every[order].split(self.size):
            yield batch(self.x, part)


def scan(x: Tensor) -> Scan:
    """A look at all of the toy target, in two unequal parts."""

    @torch.no_grad()
    def look(network: nn.Module, rows: Tensor | None = None) -> Iterator[Seen]:
        mode = {name: part.training for name, part in network.named_modules()}
        network.eval()
        for part in (torch.arange(len(x)) if rows is None else rows).split(70):
            yield Seen(part, network(x[part]))
        for name, part in network.named_modules():
            part.training = mode[name]

    return look


def norm(model: Classifier) -> nn.Module:
    """One of its batch-norm layers."""
    return cast(nn.Sequential, model.bottleneck)[1]


def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Share of correct answers in eval mode."""
    model.eval()
    with torch.no_grad():
        return float((model(x).logits.argmax(1) == y).double().mean())
