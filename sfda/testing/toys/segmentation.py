"""A toy shift of segmentation: coloured boxes under another light, and a network of two layers."""

from __future__ import annotations

from functools import cache
from typing import cast

import torch
from torch import Tensor, nn

from sfda.problems.segmentation.network import Segmenter
from sfda.settings import Schedule
from sfda.testing.toys import classification as blobs
from sfda.types import TargetBatch, TargetInfo

PROBLEM = Segmenter.problem
CLASSES = 3
SIZE = 48
SIDE = 10
MILD = 0.9
SLACK = 0.0  # of accuracy, that noise may cost
ROUNDING = 1e-5
FAST = Schedule(lr=0.02, epochs=3, batch_size=24)
COLOURS = torch.tensor([[-0.6, 0.2, -0.4], [0.9, -0.5, -0.5], [-0.5, -0.4, 0.9]])
LIGHT = torch.tensor([0.9, 0.7, 0.3])

Batches = blobs.Batches
scan = blobs.scan


def images(shift: float = 0.0, *, seed: int = 0, size: int = SIZE) -> tuple[Tensor, Tensor]:
    """Two boxes on a ground [N, 3, 10, 10], the light `shift` away, and their masks."""
    generator = torch.Generator().manual_seed(seed)
    masks = torch.zeros(size, SIDE, SIDE, dtype=torch.long)
    corners = torch.randint(0, SIDE - 3, (size, 2, 2), generator=generator)
    for mask, boxes in zip(masks, corners, strict=True):
        for label, (top, left) in enumerate(boxes.tolist(), start=1):
            mask[top : top + 4, left : left + 4] = label
    x = COLOURS[masks].permute(0, 3, 1, 2)
    x = x + 0.25 * torch.randn(x.shape, generator=generator)
    return (1 - 0.4 * shift) * x + shift * LIGHT.view(1, 3, 1, 1), masks


def network() -> Segmenter:
    """A segmenter with all parts that a real one has."""
    torch.manual_seed(0)
    return Segmenter(
        nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()),
        nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()),
        nn.Conv2d(8, CLASSES, 1),
        feature_dim=8,
        num_classes=CLASSES,
    )


@cache
def _trained() -> Segmenter:
    model, (x, y) = network(), images()
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x).logits, y).backward()
        optimizer.step()
    return model.eval()


def source() -> Segmenter:
    """A fresh copy of the trained source model."""
    model = network()
    model.load_state_dict(_trained().state_dict())
    return model.eval()


def info(size: int = SIZE, *, priors: Tensor | None = None) -> TargetInfo:
    """What a method may know of the toy target."""
    rows = tuple(f"row-{i}" for i in range(size))
    return TargetInfo(size, rows, classes=("ground", "red", "blue"), priors=priors)


def batch(x: Tensor, rows: list[int] | Tensor) -> TargetBatch:
    """A batch of these rows; the strong view is a fixed disturbance of each row."""
    return blobs.batch(x, rows)


def norm(model: Segmenter) -> nn.Module:
    """One of its batch-norm layers."""
    return cast(nn.Sequential, model.decoder)[1]


def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Mean share of right pixels over the classes, in eval mode."""
    model.eval()
    with torch.no_grad():
        right = model(x).logits.argmax(1) == y
    return float(torch.stack([right[y == c].float().mean() for c in range(CLASSES)]).mean())
