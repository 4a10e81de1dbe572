"""Methods on real domain shift, by the commands that README names. Stages that are done are cached.

Killed and started again, it goes on from the last finished epoch: its home is `bench/home`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

SFDA = str(Path(sys.executable).with_name("sfda"))
WEIGHTS = "weights/squeezenet1_1_imagenet_backbone.npz"
TRAIN = {
    "mnist": "--data data_manifests/digits/mnist.yaml --arch sfda:lenet --name mnist "
    "--set lr_scale.backbone=1.0 --seed 2019",
    "pacs": "--data data_manifests/pacs/photo.yaml --arch torchvision:squeezenet1_1 --size 128 "
    f"--init {{data}}/{WEIGHTS} --set views.pad=8 --epochs 8 --name pacs --seed 0",
}
COMPARE = {
    "MNIST → USPS": "--source models:/mnist@source --target data_manifests/digits/usps.yaml "
    "--preset digits-compare",
    "PACS photo → art painting": "--source models:/pacs@source "
    "--target data_manifests/pacs/art_painting.yaml --epochs 4",
}
METHODS = "shot,aad,mean_teacher,supervised"


def measure(out: Path) -> dict[str, Any]:
    """Train both sources, compare on both targets; what is done comes from the cache."""
    env = {**os.environ, "SFDA_HOME": str((out / "home").absolute())}
    trained = {name: sfda(f"train-source {given}", env) for name, given in TRAIN.items()}
    tables = {
        name: sfda(f"compare {given} --methods {METHODS} --seeds 0,1,2", env)
        for name, given in COMPARE.items()
    }
    return {"sources": trained, "tables": tables}


def sfda(command: str, env: dict[str, str]) -> dict[str, Any]:
    """One command's JSON object; its progress goes to this process's stderr."""
    words = command.format(data=os.environ["SFDA_DATA"]).split()
    done = subprocess.run(
        [SFDA, *words, "--json"], env=env, stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(done.returncode)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def text(found: dict[str, Any]) -> str:
    return "\n\n".join(f"### {name}\n\n{row['table']}" for name, row in found["tables"].items())
