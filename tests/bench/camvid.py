"""Segmentation on real shift: CamVid from day to dusk, by the commands of docs/results.md."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from tests.bench.figures import sfda

TRAIN = (
    "train-source --data data_manifests/camvid/day.yaml --arch smp:unet/resnet18 --size 120x160 "
    "--epochs 40 --name camvid"
)
COMPARE = (
    "compare --source models:/camvid@source --target data_manifests/camvid/dusk.yaml --methods "
    "source,bn,alpha_bn,mean_teacher,adami,osuda,supervised --seeds 0,1,2"
)


def measure(out: Path) -> dict[str, Any]:
    """The source model, and one table; what is done comes from the cache."""
    env = {**os.environ, "SFDA_HOME": str((out / "home").absolute())}
    return {"source": sfda(TRAIN, env, out), "table": sfda(COMPARE, env, out)}


def text(result: dict[str, Any]) -> str:
    return str(result["table"]["table"])
