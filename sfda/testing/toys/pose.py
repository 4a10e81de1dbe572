"""A toy shift of pose: three dots of three colours under another light, and a tiny network."""

from __future__ import annotations

from functools import cache
from typing import cast

import torch
from torch import Tensor, nn

from sfda.building_blocks.heatmaps import PoseTargets, peaks
from sfda.problems.pose import loss as pose_loss
from sfda.problems.pose import network as pose
from sfda.problems.pose.network import PoseNet
from sfda.problems.pose.prior import PosePrior, tree
from sfda.settings import Schedule
from sfda.testing.toys import classification as blobs
from sfda.types import TargetBatch, TargetInfo, Warp

PROBLEM = PoseNet.problem
NAMES = ("red", "green", "blue")
EDGES = ((0, 1), (1, 2))
SIZE = 24
SIDE = 32
COLOURS = torch.tensor([[1.0, -0.5, -0.5], [-0.5, 1.0, -0.5], [-0.5, -0.5, 1.0]])
LIGHT = torch.tensor([0.5, 0.2, -0.6])
MILD = 0.3
ROUNDING = 1e-4  # Adam's first step is the gradient's sign: not smooth where that is nearly 0
SLACK = 0.0  # of accuracy, that noise may cost
FAST = Schedule(optimizer="adam", lr=5e-4, weight_decay=0.0, decay="none", epochs=3, batch_size=8)

scan = blobs.scan


class Batches(blobs.Batches):
    """Eight images a batch."""

    def __init__(self, x: Tensor) -> None:
        super().__init__(x, 8)


def images(shift: float = 0.0, *, seed: int = 0, size: int = SIZE) -> tuple[Tensor, PoseTargets]:
    """Three dots on a ground [N, 3, 32, 32], the light `shift` away, and where they are."""
    generator = torch.Generator().manual_seed(seed)
    joints = torch.randint(4, SIDE - 4, (size, 3, 2), generator=generator).float()
    axis = torch.arange(SIDE).float()
    x = 0.15 * torch.randn(size, 3, SIDE, SIDE, generator=generator)
    for joint, colour in zip(joints.unbind(1), COLOURS, strict=True):
        across = (axis - joint[:, :1]).abs() <= 2
        down = (axis - joint[:, 1:]).abs() <= 2
        dot = (down[:, :, None] & across[:, None, :]).float()
        x = x + dot[:, None] * colour.view(1, 3, 1, 1)
    x = (1 - 0.4 * shift) * x + shift * LIGHT.view(1, 3, 1, 1)
    return x, PoseTargets(joints, torch.ones(size, 3))


def network() -> PoseNet:
    """A pose network with all parts that a real one has, a prior included."""
    torch.manual_seed(0)
    neck, head = pose.neck_and_head(16, 8, 3, 16)
    backbone = nn.Sequential(
        nn.Conv2d(3, 16, 3, stride=2, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, stride=2, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, stride=2, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
    )
    prior = PosePrior(*tree(EDGES, 3), hidden=(8,))
    nn.init.constant_(
        cast(nn.Linear, prior.layers[-1]).bias, 0.5
    )  # else its last ReLU lets nothing through
    return PoseNet(backbone, neck, head, feature_dim=16, num_classes=3, prior=prior)


@cache
def _trained() -> PoseNet:
    model, (x, y) = network(), images(size=96)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    model.train()
    for step in range(250):
        rows = torch.arange(16) + 16 * (step % 6)
        optimizer.zero_grad()
        loss = pose_loss.loss(model, x[rows], PoseTargets(*(part[rows] for part in y)))
        loss["heatmap"].backward()
        optimizer.step()
    return model.eval()


def source() -> PoseNet:
    """A fresh copy of the trained source model."""
    model = network()
    model.load_state_dict(_trained().state_dict())
    return model.eval()


def info(size: int = SIZE, *, priors: Tensor | None = None) -> TargetInfo:
    """What a method may know of the toy target."""
    return TargetInfo(size, tuple(f"row-{i}" for i in range(size)), classes=NAMES, priors=priors)


def batch(x: Tensor, rows: list[int] | Tensor) -> TargetBatch:
    """A batch of these rows; the strong view is a fixed disturbance, moved by a few pixels."""
    rows = torch.as_tensor(rows)
    rows = rows[rows < len(x)]
    result = blobs.batch(x, rows)
    still = torch.eye(3)[:2].expand(len(rows), 2, 3)
    moves = torch.randn(len(x), 2, generator=torch.Generator().manual_seed(5))[rows] * 0.05
    away = torch.cat([still[..., :2], moves[..., None]], -1)
    theta = away.clone()
    grid = nn.functional.affine_grid(theta, list(result.weak.shape), align_corners=False)
    assert result.strong is not None
    strong = nn.functional.grid_sample(result.strong, grid, align_corners=False)
    mirrored = torch.zeros(len(rows), dtype=torch.bool)
    return TargetBatch(
        rows, result.weak, strong, weak_warp=Warp(still, mirrored), strong_warp=Warp(away, mirrored)
    )


def norm(model: PoseNet) -> nn.Module:
    """One of its batch-norm layers."""
    return cast(nn.Sequential, model.backbone)[1]


def accuracy(model: nn.Module, x: Tensor, y: PoseTargets) -> float:
    """Share of joints within a pixel of the map, in eval mode."""
    model.eval()
    with torch.no_grad():
        joints, _ = peaks(model(x).heatmaps)
    far = (4.0 * joints - y.joints).norm(dim=-1)
    return float((far <= 4).float().mean())
