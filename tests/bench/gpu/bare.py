"""The networks' work alone: what an epoch would take if all else took no time."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from sfda.adaptation.schedule import make_optimizer
from sfda.building_blocks.boxes import Boxes
from sfda.building_blocks.precision import network_precision
from sfda.types import Images
from tests.bench.gpu.cases import Target

SCAN, TRAINING, SCORING = "scan", "training", "scoring"


class Pass(NamedTuple):
    """One forward pass: in which part of an epoch, with a gradient or not, of how many images."""

    part: str
    learns: bool
    size: int


class Bare:
    """The networks' work alone, on images in the device's memory, at torch's own settings."""

    def __init__(self, target: Target, config: Any) -> None:
        self.target = target
        method = target.method(config)
        method.train()
        self.student = method.student
        self.frozen = copy.deepcopy(self.student).requires_grad_(False).eval()
        optimizer = make_optimizer(config.schedule, method.parameter_groups(config.schedule))
        assert optimizer is not None
        self.optimizer = optimizer
        self.usual = config.schedule.batch_size
        self.batches: dict[int, Images] = {}
        self.goals: dict[int, Any] = {}

    def run(self, passes: list[Pass]) -> dict[str, float]:
        """Seconds of each part of an epoch."""
        spans = {}
        with undetermined():
            for part in (SCAN, TRAINING, SCORING):
                started = seconds(self.target.device)
                for one in passes:
                    if one.part == part:
                        self.step(one.size) if one.learns else self.look(one.size)
                spans[part] = seconds(self.target.device) - started
        return spans

    @torch.no_grad()
    def look(self, count: int) -> Any:
        """A forward pass without a gradient."""
        with network_precision(self.target.device):
            return self.frozen(self.images(count))

    def step(self, count: int) -> None:
        """Forward, backward and the optimiser's step."""
        if count not in self.goals:
            self.goals[count] = self.goal(count)
        with network_precision(self.target.device):
            loss = self.loss(self.images(count), self.goals[count])
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()

    def images(self, count: int) -> Images:
        """A batch of that size, made once."""
        if count not in self.batches:
            self.batches[count] = self.target.batch(count)
        return self.batches[count]

    def goal(self, count: int) -> Any:
        """Something to learn: classes, heatmaps, or boxes and what a teacher proposed."""
        if self.target.case.problem == "pose":
            return self.look(count).heatmaps
        if self.target.case.problem != "detection":
            return self.look(count).logits.argmax(1)
        with torch.no_grad(), network_precision(self.target.device):
            proposals = self.frozen.regions(self.images(count)).proposals
        corners = torch.tensor([[4.0, 4, 40, 50], [10, 12, 60, 44]], device=self.target.device)
        ones = torch.ones(2, device=self.target.device)
        return [Boxes(corners, ones.long(), ones)] * count, proposals

    def loss(self, images: Images, goal: Any) -> Tensor:
        """The problem's usual loss; LPLD's student also sees the teacher's proposals."""
        if self.target.case.problem == "pose":
            error: Tensor = (self.student(images).heatmaps - goal).square().mean()
            return error
        if self.target.case.problem != "detection":
            return F.cross_entropy(self.student(images).logits, goal)
        boxes, proposals = goal
        features = self.student.features(images)
        losses = list(self.student.loss(images, boxes, features).values())
        if self.target.case.method == "lpld":
            regions = self.student.regions(images, proposals, features)
            losses.append(1e-3 * regions.logits.square().mean())
        return torch.stack(losses).sum()


@contextmanager
def undetermined() -> Iterator[None]:
    """Inside, torch may take any algorithm, as it does by itself."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(False)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=True)


def seconds(device: torch.device) -> float:
    """The time once the device has done all that it was asked for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
