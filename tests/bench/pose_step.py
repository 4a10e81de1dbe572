"""Steps per second of the pose pipeline with POST over a bare loop of the networks' own work.

Bare: the teacher's and the student's forward pass on a batch in memory, a squared error, backward
and step. The pipeline adds the loader's warped views, the way back of maps and features, and POST's
losses.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch

from sfda import plugins
from sfda.adaptation.loop import adapt
from sfda.adaptation.schedule import make_optimizer
from sfda.images.decode import decode_images
from sfda.loading.batches import TargetLoader
from sfda.loading.opened import decode_key
from sfda.loading.scan import scan
from sfda.manifests.opening import open_manifest
from sfda.manifests.rows import read_split, unlabelled_digest
from sfda.problems.pose import network as pose
from sfda.refs import InputSpec
from sfda.types import StepEnd, TargetInfo
from tests.bench.lpld_step import spread

ROUNDS, STEPS = 5, 4
CASES = (("sfda:tiny", 96), ("torchvision:resnet18", 128))


def measure(out: Path) -> dict[str, Any]:
    """Seconds a step, bare and whole, of each case."""
    return {f"{arch}, {side} px": case(out, arch, side) for arch, side in CASES}


def case(out: Path, arch: str, side: int) -> dict[str, Any]:
    opened = open_manifest(Path("data_manifests/face5/net.yaml")).unlabelled()
    split = read_split(opened, "adapt")
    spec = pose.make_spec(
        arch, tuple(split.classes or ()),  # type: ignore[arg-type]
        input=InputSpec(size=(side, side), mean=(0.5,) * 3, std=(0.5,) * 3),
    )  # fmt: skip
    images = decode_images(
        split,
        spec.input,
        out / "decoded",
        key=decode_key(unlabelled_digest(opened, "adapt"), spec.input),
    )
    torch.manual_seed(0)
    kind = plugins.load("methods", "post")
    config = kind.Config.from_settings({"without_prior": True})
    info = TargetInfo(len(images), split.row_ids)
    method = kind(pose.build_from_spec(spec), info, config)
    loader = TargetLoader(
        images, spec.input, spec.views, strong=True, batch_size=32, seed=0, device="cpu",
        drop_last=True, geometric=True,
    )  # fmt: skip
    batch = next(iter(loader.epoch(0)))
    optimizer = make_optimizer(config.schedule, method.parameter_groups(config.schedule))
    assert optimizer is not None

    def bare() -> float:
        method.train()
        started = time.perf_counter()
        for _ in range(STEPS):
            with torch.no_grad():
                known = method.teacher(batch.weak).heatmaps
            loss = (method.student(batch.strong).heatmaps - known).square().mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        return (time.perf_counter() - started) / STEPS

    def whole() -> float:
        look = scan(images, spec.input, device="cpu")
        events = adapt(method, loader, look, config.schedule)
        next(events)
        started = time.perf_counter()
        for _ in range(STEPS):
            assert isinstance(next(events), StepEnd)
        return (time.perf_counter() - started) / STEPS

    bare()
    whole()
    rounds = [(bare(), whole()) for _ in range(ROUNDS)]
    return {
        "bare_s": [b for b, _ in rounds],
        "step_s": [w for _, w in rounds],
        "ratios": [b / w for b, w in rounds],
    }


def text(result: dict[str, Any]) -> str:
    return "\n".join(
        f"{name}: one step {spread(row['step_s'])} s, bare {spread(row['bare_s'])} s, ratio of "
        f"speeds {spread(row['ratios'])}"
        for name, row in result.items()
        if isinstance(row, dict)  # beside them: machine and time
    )
