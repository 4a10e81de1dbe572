"""The main job on built-in data: train a source model, adapt it to a shifted target, promote it."""

from __future__ import annotations

import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from flows import presets
from flows.adapt import adapt
from flows.train_source import train_source
from sfda.config import Config
from sfda.data.digits import write_demo
from tasks.home import home

NAME = "digits"


class DemoResult(Config):
    """What the demo shows."""

    table: str
    picture: str
    uri: str
    promoted: bool
    selected_epoch: int
    selected_by: str
    seconds: float


def classification(device: Any = "auto") -> DemoResult:
    """Handwritten digits as the source, a shifted rendition of held-out ones as the target."""
    started = time.monotonic()
    folder = home() / "demo"
    source, target = write_demo(folder)
    trained = train_source(
        str(source), "sfda:lenet", NAME, settings={"lr_scale": {"backbone": 1.0}}, device=device
    )
    found = adapt(
        trained.version.uri,
        str(target),
        method="shot",
        settings=presets.read("digits-shot")["settings"],
        name=NAME,
        promote=True,
        device=device,
    )
    assert found.sides.source is not None
    assert found.sides.adapted is not None
    picture = folder / "report.png"
    shutil.copyfile(str(found.sides.picture), picture)
    rows = [("metric", "source", "adapted")] + [
        (name.replace("_", " "), f"{value:.4f}", f"{found.sides.adapted.metrics[name]:.4f}")
        for name, value in found.sides.source.metrics.items()
    ]
    return DemoResult(
        table="\n".join(f"{a:<30}{b:>10}{c:>10}" for a, b, c in rows),
        picture=str(picture),
        uri=found.version.uri,
        promoted=found.promoted,
        selected_epoch=found.selected_epoch,
        selected_by=found.selected_by,
        seconds=time.monotonic() - started,
    )


def text(found: DemoResult) -> str:
    """The table, the picture and the one command that shows it all."""
    return "\n".join(
        [
            "",
            found.table,
            "",
            f"epoch {found.selected_epoch + 1} was chosen without labels, by {found.selected_by}",
            f"registered as {found.uri}" + (", promoted to champion" if found.promoted else ""),
            f"picture: {found.picture}",
            f"{found.seconds:.0f} seconds; look at this very run in MLflow and Prefect with:",
            f"  {_command()} ui",
        ]
    )


def _command() -> str:
    """How this user calls us."""
    return (
        "sfda" if shutil.which("sfda") else os.path.relpath(Path(sys.executable).with_name("sfda"))
    )
