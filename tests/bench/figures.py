"""Methods on real domain shift, by the commands of docs/results.md. Done stages are cached.

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
M = "data_manifests"
SUBSETS = {  # classes 0 to 5 are shared, 6 and 7 the source's own, 8 and 9 the target's own
    "mnist-0-5": f"{M}/digits/mnist.yaml --classes 0,1,2,3,4,5",
    "mnist-0-7": f"{M}/digits/mnist.yaml --classes 0,1,2,3,4,5,6,7",
    "usps-0-5": f"{M}/digits/usps.yaml --classes 0,1,2,3,4,5",
    "usps-0-5-8-9": f"{M}/digits/usps.yaml --classes 0,1,2,3,4,5,8,9",
}
LENET = "--arch sfda:lenet --set lr_scale.backbone=1.0 --seed 2019"
SQUEEZE = (
    f"--arch torchvision:squeezenet1_1 --size 128 --init {{data}}/{WEIGHTS} --set views.pad=8 "
    "--epochs 8 --seed 0"
)
TRAIN = {
    "mnist": f"--data {M}/digits/mnist.yaml {LENET}",
    "usps": f"--data {M}/digits/usps.yaml {LENET} --set views.pad=4 --set views.rotate=10",
    "pacs": f"--data {M}/pacs/photo.yaml {SQUEEZE}",
    "pacs_art": f"--data {M}/pacs/art_painting.yaml {SQUEEZE}",
    "mnist06": f"--data {{out}}/mnist-0-5.yaml {LENET} --epochs 10",
    "mnist08": f"--data {{out}}/mnist-0-7.yaml {LENET} --epochs 10",
}
ALL = "--methods source,bn,mean_teacher,shot,aad,nrc,sfda2,glc,supervised"
DIGITS, PACS = "--preset digits-compare", "--preset pacs-compare"
USPS = f"{M}/digits/usps.yaml"
COMPARE = {
    "MNIST → USPS": f"--source models:/mnist@source --target {USPS} {DIGITS} {ALL}",
    "USPS → MNIST": f"--source models:/usps@source --target {M}/digits/mnist.yaml {DIGITS} "
    f"--epochs 8 {ALL}",
    "PACS photo → art painting": "--source models:/pacs@source "
    f"--target {M}/pacs/art_painting.yaml {PACS} {ALL}",
    "PACS art painting → photo": "--source models:/pacs_art@source "
    f"--target {M}/pacs/photo.yaml {PACS} --epochs 3 {ALL}",
    "MNIST → USPS, partial": "--source models:/mnist@source --target {out}/usps-0-5.yaml "
    f"{DIGITS} --epochs 10 --methods shot,glc,supervised",
    "MNIST → USPS, open": f"--source models:/mnist06@source --target {USPS} {DIGITS} "
    "--epochs 10 --methods shot,glc",
    "MNIST → USPS, open-partial": "--source models:/mnist08@source "
    f"--target {{out}}/usps-0-5-8-9.yaml {DIGITS} --epochs 10 --methods shot,glc",
}


def measure(out: Path) -> dict[str, Any]:
    """Train the sources, compare on every target; what is done comes from the cache."""
    made = out / "regimes"
    env = {**os.environ, "SFDA_HOME": str((out / "home").absolute())}
    for name, inputs in SUBSETS.items():
        sfda(f"subset {inputs} --out {made}/{name}.yaml", env, made)
    trained = {
        name: sfda(f"train-source {inputs} --name {name}", env, made)
        for name, inputs in TRAIN.items()
    }
    tables = {
        name: sfda(f"compare {inputs} --seeds 0,1,2", env, made) for name, inputs in COMPARE.items()
    }
    return {"sources": trained, "tables": tables}


def sfda(command: str, env: dict[str, str], out: Path) -> dict[str, Any]:
    """One command's JSON object; its progress goes to this process's stderr."""
    words = command.format(data=os.environ["SFDA_DATA"], out=out).split()
    done = subprocess.run(
        [SFDA, *words, "--json"], env=env, stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(done.returncode)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def text(result: dict[str, Any]) -> str:
    return "\n\n".join(f"### {name}\n\n{row['table']}" for name, row in result["tables"].items())
