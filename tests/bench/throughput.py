"""Steps per second of the whole pipeline over a bare loop that does nothing but the network's work.

Bare: the same network, one batch already in memory, the method's own forward passes, backward and
step. Both are measured in turns, one after the other, so that a slow minute of the machine hits
both; the figure is the median of the ratios.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from sfda import plugins
from sfda.adaptation.loop import adapt
from sfda.adaptation.schedule import make_optimizer
from sfda.images.decode import decode_images
from sfda.loading.batches import TargetLoader
from sfda.loading.opened import decode_key
from sfda.manifests.opening import open_manifest
from sfda.manifests.rows import read_split, unlabelled_digest
from sfda.problems.classification import network as classification
from sfda.problems.classification.network import ClassOutput
from sfda.problems.registry import PROBLEMS
from sfda.problems.segmentation import network as segmentation
from sfda.refs import InputSpec, Views
from sfda.types import Seen, StepEnd, TargetInfo

CPU = torch.device("cpu")
ROUNDS = 5
CLASSES = tuple("abcdefghij")
NETWORKS = {"classification": classification, "segmentation": segmentation}
CASES = (
    # name, manifest, architecture, (resize, size), steps a round, method
    ("digit network, 28 px, shot", "digits/usps", "sfda:lenet", None, 40, "shot"),
    ("digit network, 28 px, mean_teacher", "digits/usps", "sfda:lenet", None, 40, "mean_teacher"),
    ("SqueezeNet, 224 px, shot", "pacs/art_painting", "torchvision:squeezenet1_1", (256, 224), 2,
     "shot"),
    ("SqueezeNet, 224 px, mean_teacher", "pacs/art_painting", "torchvision:squeezenet1_1",
     (256, 224), 2, "mean_teacher"),
    ("U-Net, 120x160 px, adami", "camvid/dusk", "smp:unet/resnet18", (120, 160), 5, "adami"),
    ("U-Net, 120x160 px, mean_teacher", "camvid/dusk", "smp:unet/resnet18", (120, 160), 4,
     "mean_teacher"),
)  # fmt: skip


def measure(out: Path) -> dict[str, Any]:
    """Every case, its rounds, and the cost of making one batch."""
    return {"cases": [case(out, *inputs) for inputs in CASES]}


def case(
    out: Path, name: str, manifest: str, arch: str, pixels: Any, steps: int, method: str
) -> dict[str, Any]:
    problem = "segmentation" if arch.startswith("smp:") else "classification"
    spec, views = input_of(problem, arch, pixels)
    opened = open_manifest(Path("data_manifests") / f"{manifest}.yaml").unlabelled()
    split = read_split(opened, "adapt")
    images = decode_images(
        split, spec, out / "decoded", key=decode_key(unlabelled_digest(opened, "adapt"), spec)
    )
    torch.manual_seed(0)
    kind = plugins.load("methods", method)
    config = kind.Config.from_settings(kind.defaults_for(problem))
    info = TargetInfo(len(images), split.row_ids, source_ratios=torch.full((10,), 0.1))
    library = NETWORKS[problem]
    network = library.build_from_spec(library.make_spec(arch, CLASSES, input=spec))
    algorithm = kind(network, info, config)
    loader = TargetLoader(
        images,
        spec,
        views,
        strong=kind.views != "none",
        batch_size=config.schedule.batch_size,
        seed=0,
        device=CPU,
    )
    batch = next(loader.epoch(0))
    bare = bare_loop(algorithm, batch, config)
    run = pipeline(algorithm, loader, prepared_scan(len(images)), config)
    bare(1)
    run(1)
    rounds = [(bare(steps), run(steps)) for _ in range(ROUNDS)]
    batches = [timed(lambda: next(loader.epoch(3))) for _ in range(5)]
    return {
        "name": name,
        "bare_steps_per_s": [1 / b for b, _ in rounds],
        "pipeline_steps_per_s": [1 / p for _, p in rounds],
        "ratios": [b / p for b, p in rounds],
        "batch_ms": [1000 * seconds for seconds in batches],
        "views": "weak" if kind.views == "none" else "weak and strong",
    }


def input_of(problem: str, arch: str, pixels: Any) -> tuple[InputSpec, Views]:
    spec, views = PROBLEMS[problem].defaults(arch)
    if problem == "segmentation":
        return InputSpec(size=pixels, mean=(0.5,) * 3, std=(0.5,) * 3), views
    assert spec is not None
    if pixels:
        resize, size = pixels
        spec = spec.model_copy(update={"resize": (resize, resize), "size": (size, size)})
    return spec, views


def prepared_scan(size: int) -> Callable[[Any], Iterator[Seen]]:
    """A scan that costs nothing: scans are left out of the figure."""

    def look(network: Any) -> Iterator[Seen]:
        generator = torch.Generator().manual_seed(0)
        features = torch.randn(size, network.feature_dim, generator=generator)
        logits = torch.randn(size, network.num_classes, generator=generator)
        yield Seen(torch.arange(size), ClassOutput(features, logits))

    return look


def bare_loop(algorithm: Any, batch: Any, config: Any) -> Callable[[int], float]:
    """Seconds a step of the network's work alone."""
    student = algorithm.student
    teacher = getattr(algorithm, "teacher", None)
    optimizer = make_optimizer(config.schedule, algorithm.parameter_groups(config.schedule))
    assert optimizer is not None
    looks = 2 * len(getattr(config, "ensemble", ())) or 1  # of the teacher at each image
    with torch.no_grad():
        labels = student(batch.weak).logits.argmax(1)

    def loop(steps: int) -> float:
        algorithm.train()
        started = time.perf_counter()
        for _ in range(steps):
            images = batch.weak
            if teacher is not None:
                with torch.no_grad():
                    for _ in range(looks):
                        teacher(batch.weak)
                images = batch.strong
            loss = F.cross_entropy(student(images).logits, labels)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        return (time.perf_counter() - started) / steps

    return loop


def pipeline(algorithm: Any, loader: Any, look: Any, config: Any) -> Callable[[int], float]:
    """Seconds a step of the real loop with the real loader, scans left out."""

    def loop(steps: int) -> float:
        schedule = replace_epochs(config.schedule)
        events = adapt(algorithm, loader, look, schedule)
        next(events)  # the scan
        started = time.perf_counter()
        for _ in range(steps):
            assert isinstance(next(events), StepEnd)
        return (time.perf_counter() - started) / steps

    return loop


def replace_epochs(schedule: Any) -> Any:
    return schedule.model_copy(update={"epochs": 100})


def timed(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def text(result: dict[str, Any]) -> str:
    lines = [
        "| network, method | bare steps/s | pipeline steps/s | ratio (median, min to max) | "
        "one batch of views, ms |",
        "|---|---:|---:|---:|---:|",
    ]
    for row in result["cases"]:
        middle = {key: statistics.median(row[key]) for key in row if key not in ("name", "views")}
        ratios = np.array(row["ratios"])
        lines.append(
            f"| {row['name']} ({row['views']} view) | {middle['bare_steps_per_s']:.2f} "
            f"| {middle['pipeline_steps_per_s']:.2f} | {middle['ratios']:.2f} "
            f"({ratios.min():.2f} to {ratios.max():.2f}) | {middle['batch_ms']:.1f} |"
        )
    return "\n".join(lines)
