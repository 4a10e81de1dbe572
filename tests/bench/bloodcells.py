"""Detection on real domain shift: blood cells of another hospital, with both libraries."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from tests.bench.figures import sfda

SETTINGS = (
    "--size 192 --epochs 20 --set views.flip=true --set schedule.lr=5e-4 "
    "--set lr_scale.backbone=0.1"
)
VIEWS = "--epochs 5 --set views.erase=0.0 --set views.blur_sigma=0.64"
BOUND = "--set supervised.schedule.lr=5e-4"
TARGET = "--target data_manifests/bloodcells/pbc.yaml"
TORCHVISION = "torchvision:fasterrcnn_squeezenet1_1_fpn"
MMDET = "mmdet:tests/bench/faster-rcnn_squeezenet1_1_fpn.yaml"


def measure(out: Path) -> dict[str, Any]:
    """Both source models, and a table each; what is done comes from the cache."""
    env = {**os.environ, "SFDA_HOME": str((out / "home").absolute())}
    weights = Path(os.environ["SFDA_DATA"], "weights/squeezenet1_1_imagenet_backbone.npz")
    result: dict[str, Any] = {}
    for name, arch, methods, seeds in (
        ("cells", TORCHVISION, f"mean_teacher,lpld,supervised {BOUND}", "0,1,2"),
        ("mmcells", f"{MMDET} --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225",
         "mean_teacher,lpld", "0"),
    ):  # fmt: skip
        train = (
            f"train-source --data data_manifests/bloodcells/bccd.yaml --arch {arch} --name {name} "
            f"--init {weights} {SETTINGS}"
        )
        compare = (
            f"compare --source models:/{name}@source {TARGET} --methods {methods} --seeds {seeds} "
            f"{VIEWS}"
        )
        result[name] = {"source": sfda(train, env, out), "table": sfda(compare, env, out)}
    return result


def text(result: dict[str, Any]) -> str:
    return "\n\n".join(f"{name}\n\n{part['table']['table']}" for name, part in result.items())
