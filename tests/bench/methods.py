"""What a method costs: its step over a plain mean-teacher step, and its own share of it.

SqueezeNet 1.1 at 224 pixels, one batch of 64 in memory, a bank of 10,000 samples. A step is the
method's losses, backward and the optimiser's step. Own arithmetic is the same with a network that
only hands out features and logits prepared before, head included: its share of the whole step.
Steps are taken in turns, so that a slow minute of the machine hits all methods.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfda import plugins
from sfda.adaptation.schedule import make_optimizer
from sfda.problems.classification.network import Classifier
from sfda.types import Clock, TargetBatch, TargetInfo
from tests.library_networks import classifier

ARCH, SIDE, CLASSES, ROWS, BATCH = "torchvision:squeezenet1_1", 224, 7, 10_000, 64
NAMES = ("mean_teacher", "shot", "aad", "nrc", "sfda2", "glc")
ROUNDS = 5
CLOCK = Clock(500, 157, 15)


class Prepared(nn.Module):
    """A backbone that answers with its input: features that were made before."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)


def measure(out: Path) -> dict[str, Any]:
    """Seconds a step of every method, and of its own arithmetic."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(BATCH, 3, SIDE, SIDE, generator=generator)
    images = images.contiguous(memory_format=torch.channels_last)
    network = classifier(ARCH, CLASSES).to(memory_format=torch.channels_last).eval()
    features = torch.randn(BATCH, network.feature_dim, generator=generator)
    stub = Classifier(
        Prepared(), nn.Identity(), network.head, feature_dim=network.feature_dim,
        num_classes=CLASSES,
    )  # fmt: skip
    whole = {name: prepared(name, network) for name in NAMES}
    own = {name: prepared(name, stub) for name in NAMES if name != "mean_teacher"}
    result: dict[str, Any] = {name: {"step_s": [], "own_s": []} for name in NAMES}
    for turn in range(ROUNDS + 1):
        for name in NAMES:
            seconds = step(whole[name], images)
            mine = own_arithmetic(own[name], features) if name in own else 0.0
            if turn:  # the first one warms up
                result[name]["step_s"].append(seconds)
                result[name]["own_s"].append(mine)
    return {"methods": result}


def prepared(name: str, network: Classifier) -> Any:
    """A method in the middle of a run: its bank is full."""
    kind = plugins.load("methods", name)
    info = TargetInfo(ROWS, tuple(str(i) for i in range(ROWS)))
    settings: dict[str, Any] = {"lr_scale": {}} if isinstance(network.backbone, Prepared) else {}
    method = kind(network, info, kind.Config.from_settings(settings))
    if hasattr(method, "bank"):
        generator = torch.Generator().manual_seed(1)
        rows = torch.randn(ROWS, network.feature_dim, generator=generator)
        probs = torch.randn(ROWS, CLASSES, generator=generator).softmax(1)
        method.bank.update(torch.arange(ROWS), rows, probs)
        method.bank.index_()
    method.train()
    return method


def step(method: Any, images: Tensor) -> float:
    """Seconds of losses, backward and the optimiser's step."""
    schedule = method.config.schedule
    optimizer = make_optimizer(schedule, method.parameter_groups(schedule))
    assert optimizer is not None
    batch = TargetBatch(torch.arange(BATCH), images, strong=images)
    started = time.perf_counter()
    total = torch.stack(list(method.losses(batch, CLOCK).values())).sum()
    optimizer.zero_grad(set_to_none=True)
    total.backward()
    optimizer.step()
    method.after_step(CLOCK)
    return time.perf_counter() - started


def own_arithmetic(method: Any, features: Tensor) -> float:
    """Seconds of the losses and their way back to the features."""
    inputs = F.normalize(features, dim=1).requires_grad_()
    batch = TargetBatch(torch.arange(BATCH), inputs)
    started = time.perf_counter()
    torch.stack(list(method.losses(batch, CLOCK).values())).sum().backward()
    return time.perf_counter() - started


def text(result: dict[str, Any]) -> str:
    rows = result["methods"]
    plain = statistics.median(rows["mean_teacher"]["step_s"])
    lines = [
        "| method | step, s (median, min to max) | steps/s over mean teacher | own arithmetic, ms "
        "| share of the step |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, row in rows.items():
        seconds, mine = statistics.median(row["step_s"]), statistics.median(row["own_s"])
        own = f"{1000 * mine:.0f}" if mine else "–"
        share = f"{100 * mine / seconds:.1f} %" if mine else "–"
        lines.append(
            f"| {name} | {seconds:.2f} ({min(row['step_s']):.2f} to {max(row['step_s']):.2f}) "
            f"| {plain / seconds:.2f} | {own} | {share} |"
        )
    return "\n".join(lines)
