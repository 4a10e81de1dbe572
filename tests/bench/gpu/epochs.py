"""Our loop: whole epochs against the bare one, waits for the device, and the loader by itself."""

from __future__ import annotations

import time
from collections import Counter
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from sfda.adaptation.loop import adapt
from sfda.types import EpochEnd, StepEnd
from tests.bench.gpu.bare import SCAN, SCORING, TRAINING, Bare, Pass, seconds
from tests.bench.gpu.cases import SLOW, Target
from tests.bench.gpu.waits import blamed, counted, refused

STEPS = 4


def epochs(target: Target, until: float) -> dict[str, Any]:
    """Whole epochs of our loop, scan and scores included, over a bare loop of the same passes."""
    part, passes = [SCAN], []

    def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        passes.append(Pass(part[0], torch.is_grad_enabled(), len(inputs[0])))

    config = target.config(SLOW, 1 + target.repeats)
    if target.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    # copies of the network, the teacher among them, take the hook with them
    assert isinstance(target.source.backbone, nn.Module)
    noting = target.source.backbone.register_forward_pre_hook(note)
    method = target.method(config)
    noting.remove()
    loader, score = target.loader(config), target.scoring(method)
    events = adapt(method, loader, target.scan(), config.schedule)

    def epoch() -> dict[str, float]:
        passes.clear()
        part[0] = SCAN
        marks = [seconds(target.device)]
        next(events)
        marks.append(seconds(target.device))
        part[0], images = TRAINING, 0
        while not isinstance(event := next(events), EpochEnd):
            assert isinstance(event, StepEnd)
            images += event.images
        marks.append(seconds(target.device))
        part[0] = SCORING
        score(event.adapted)
        marks.append(seconds(target.device))
        spans = dict(zip((SCAN, TRAINING, SCORING), _differences(marks), strict=True))
        return spans | {"images": images}

    rounds = [epoch()]  # warms up, and fills the banks that are filled once
    peak = torch.cuda.max_memory_allocated() / 1e9 if target.device.type == "cuda" else None
    bare = Bare(target, config)
    rounds.clear()
    bares: list[dict[str, float]] = []
    while len(rounds) < target.repeats and not (rounds and time.monotonic() > until):
        rounds.append(epoch())
        if not bares:
            bare.run(passes)  # warms up
        bares.append(bare.run(passes))
    events.close()
    steps = max(1, sum(p.learns for p in passes))
    return {
        "steps": loader.steps(),
        "peak_gb": peak,
        "step_ms": [1000 * r[TRAINING] / loader.steps() for r in rounds],
        "bare_step_ms": [1000 * b[TRAINING] / steps for b in bares],
        "images_per_s": [r["images"] / r[TRAINING] for r in rounds],
        "step_ratio": [b[TRAINING] / r[TRAINING] for r, b in zip(rounds, bares, strict=True)],
        "epoch_s": [r[SCAN] + r[TRAINING] + r[SCORING] for r in rounds],
        "scan_s": [r[SCAN] for r in rounds],
        "scoring_s": [r[SCORING] for r in rounds],
        "epoch_ratio": [
            sum(b.values()) / (r[SCAN] + r[TRAINING] + r[SCORING])
            for r, b in zip(rounds, bares, strict=True)
        ],
    }


def _differences(marks: list[float]) -> list[float]:
    return [after - before for before, after in pairwise(marks)]


def waits(target: Target, until: float) -> dict[str, Any]:
    """Waits for the device in a step, by line, and whether a step runs where none is allowed."""
    config = target.config(SLOW)
    loader = target.loader(config, workers=0)
    events = adapt(target.method(config), loader, target.scan(), config.schedule)
    next(events)
    next(events)  # the first step makes the optimiser's state
    lines: Counter[str] = Counter()
    steps = min(STEPS, loader.steps() - 2)
    for _ in range(steps):
        with counted(target.device, lines):
            next(events)
    outcome = "passes" if target.device.type == "cuda" else "not run: no GPU"
    try:
        with refused(target.device):
            next(events)
    except RuntimeError as error:
        outcome = f"fails at {blamed(error)}: {str(error).splitlines()[0]}"
    events.close()
    return {
        "per_step": sum(lines.values()) / steps,
        "lines": {line: count / steps for line, count in lines.most_common(5)},
        "all_lines": len(lines),
        "refused": outcome,
    }


def loading(target: Target, until: float) -> dict[str, Any]:
    """Images a second of the loader alone, with workers and without."""
    config = target.config(SLOW)
    speeds: dict[str, Any] = {}
    for workers in sorted({0, target.workers}):
        loader = target.loader(config, workers)
        if workers:
            for _ in loader.epoch(0):  # starts them
                pass
        started, images = time.perf_counter(), 0
        for batch in loader.epoch(1):
            images += len(batch.index)
            if not workers and time.perf_counter() - started > 2:
                break
        speeds[f"{workers} workers"] = images / (seconds(target.device) - started)
    return {"images_per_s": speeds}
