"""The main job on built-in data: train a source model, adapt it to a shifted target, promote it."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from flows import presets
from flows.adapt import run_adapt
from flows.outcome import AdaptResult
from flows.train_prior import train_prior
from flows.train_source import train_source
from sfda.config import Config
from sfda.demo.digits import write_demo as write_digits
from sfda.demo.figures import write_demo as write_figures
from sfda.demo.scenes import write_demo as write_scenes
from sfda.demo.signs import write_demo as write_signs
from sfda.demo.trays import write_demo as write_shapes
from sfda.networks.registry import network_input
from sfda.problems.detection.network import views_for
from sfda.problems.pose.network import VIEWS
from sfda.settings import AdaptSettings, DeviceName
from sfda.state_folder import home


class DemoResult(Config):
    """What the demo shows."""

    table: str
    pictures: tuple[str, ...]
    uri: str
    promoted: bool
    verdict: str
    next: tuple[str, ...]  # what to type now
    selected_epoch: int
    selected_by: str
    seconds: float


def classification(device: DeviceName = "auto") -> DemoResult:
    """Handwritten digits as the source, a shifted rendition of held-out ones as the target."""
    started = time.monotonic()
    source, target = write_digits(home() / "demo")
    trained = train_source(
        str(source), "sfda:lenet", "digits", settings={"lr_scale": {"backbone": 1.0}}, device=device
    )
    result = run_adapt(
        trained.version.uri,
        str(target),
        AdaptSettings(
            method="shot",
            settings=presets.read("digits-shot")["settings"],
            name="digits",
            promote=True,
            device=device,
        ),
    )
    return _result(result, started)


def segmentation(device: DeviceName = "auto") -> DemoResult:
    """Drawn scenes by day as the source, other ones at dusk as the target."""
    started = time.monotonic()
    source, target = write_scenes(home() / "demo")
    trained = train_source(str(source), "sfda:unet", "scenes", epochs=15, device=device)
    asked = AdaptSettings(name="scenes", epochs=10, promote=True, device=device)
    result = run_adapt(trained.version.uri, str(target), asked)
    return _result(result, started)


def detection(device: DeviceName = "auto") -> DemoResult:
    """Drawn trays of parts under one light as the source, others under another as the target."""
    started = time.monotonic()
    source, target = write_shapes(home() / "demo")
    trained = train_source(
        str(source),
        "sfda:tinyrcnn",
        "parts",
        epochs=20,
        settings={"schedule": {"lr": 2e-3}},
        views=views_for(network_input("sfda:tinyrcnn", "boxes")).model_copy(update={"flip": True}),
        device=device,
    )
    asked = AdaptSettings(name="parts", epochs=5, promote=True, device=device)
    result = run_adapt(trained.version.uri, str(target), asked)
    return _result(result, started)


def pose(device: DeviceName = "auto") -> DemoResult:
    """Drawn stick figures in a gym as the source, others at night as the target."""
    started = time.monotonic()
    source, target = write_figures(home() / "demo")
    moved = VIEWS.model_copy(update={"rotate": 20.0, "shear": 0.0, "zoom": (0.85, 1.2)})
    trained = train_source(
        str(source), "sfda:tiny", "figures", epochs=12, views=moved, device=device
    )
    with_prior = train_prior(
        trained.version.uri, str(source), split="train", settings={"steps": (200, 300, 600)}
    )
    result = run_adapt(
        with_prior.version.uri,
        str(target),
        AdaptSettings(
            name="figures",
            epochs=8,
            promote=True,
            device=device,
            settings={"prior_from": 2, "schedule": {"batch_size": 16}},
        ),
    )
    return _result(result, started)


def multilabel(device: DeviceName = "auto") -> DemoResult:
    """Drawn panels of signs on a clear screen as the source, others through haze as the target."""
    started = time.monotonic()
    source, target = write_signs(home() / "demo")
    settings = {"lr_scale": {"backbone": 1.0}, "schedule": {"batch_size": 16}}
    trained = train_source(
        str(source), "sfda:lenet", "signs", epochs=15, settings=settings, device=device
    )
    asked = AdaptSettings(
        name="signs",
        epochs=6,
        promote=True,
        device=device,
        settings={"schedule": {"batch_size": 16}},
    )
    result = run_adapt(trained.version.uri, str(target), asked)
    return _result(result, started)


DEMOS: Mapping[str, Callable[[DeviceName], DemoResult]] = MappingProxyType(
    {
        "classification": classification,
        "segmentation": segmentation,
        "detection": detection,
        "pose": pose,
        "multilabel": multilabel,
    }
)


def _result(adapted: AdaptResult, started: float) -> DemoResult:
    """The table, and copies of the pictures beside the demo's data."""
    sides = adapted.sides
    assert sides.source is not None
    assert sides.adapted is not None
    pictures = [
        str(shutil.copyfile(file, home() / "demo" / f"{name}.png"))
        for name, file in (("report", sides.picture), ("panel", sides.panel))
        if file
    ]
    rows = [("metric", "source", "adapted")] + [
        (name.replace("_", " "), f"{value:.4f}", f"{sides.adapted.metrics[name]:.4f}")
        for name, value in sides.source.metrics.items()
    ]
    return DemoResult(
        table="\n".join(f"{a:<30}{b:>10}{c:>10}" for a, b, c in rows),
        pictures=tuple(pictures),
        uri=adapted.version.uri,
        promoted=adapted.promoted,
        verdict=adapted.verdict,
        next=adapted.next,
        selected_epoch=adapted.selected_epoch,
        selected_by=adapted.selected_by,
        seconds=time.monotonic() - started,
    )


def demo_text(result: DemoResult) -> str:
    """The table, the pictures, the one command that shows it all, the verdict, and what to type."""
    chosen = f"epoch {result.selected_epoch + 1} was chosen without labels, by {result.selected_by}"
    if result.selected_epoch < 0:
        chosen = "no epoch was without a veto: the source itself is kept"
    return "\n".join(
        [
            "",
            result.table,
            "",
            chosen,
            f"registered as {result.uri}",
            *(f"picture: {picture}" for picture in result.pictures),
            f"{result.seconds:.0f} seconds; look at this very run in MLflow and Prefect with:",
            f"  {_called('sfda ui')}",
            result.verdict,
            *(f"  {_called(command)}" for command in result.next),
        ]
    )


def _called(command: str) -> str:
    """A command as this user calls us."""
    if shutil.which("sfda") or not command.startswith("sfda "):
        return command
    return os.path.relpath(Path(sys.executable).with_name("sfda")) + command.removeprefix("sfda")
