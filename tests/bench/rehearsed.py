"""What 24 rehearsals of the demo's source model tell of targets whose gain is known.

The targets are the demo's, and its images of five, of three and of one class, all with the ten
classes stated: a model is not told that some are missing.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from sfda.demo.digits import write_demo

SFDA = str(Path(sys.executable).with_name("sfda"))
CLASSES = {"all": range(10), "odd": (1, 3, 5, 7, 9), "3, 5 and 8": (3, 5, 8), "3 alone": (3,)}
METHOD = ["--method", "shot", "--set", "lr_scale.backbone=1"]


def measure(out: Path) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        home, data = Path(folder, "home"), Path(folder, "data")
        env = {**os.environ, "SFDA_HOME": str(home), "OMP_NUM_THREADS": "1"}
        data.mkdir()
        source, target = write_demo(data)
        call(["train-source", "--data", str(source), "--arch", "sfda:lenet", "--name", "digits",
              "--set", "lr_scale.backbone=1"], env)  # fmt: skip
        card = call(["card", "--model", "models:/digits@source", "--data", str(source), "--name",
                     "carded", "--rehearse", *METHOD], env)  # fmt: skip
        targets = {}
        for number, (name, classes) in enumerate(CLASSES.items()):
            own = some_classes(target, classes, data / f"target_{number}")
            job = call(["adapt", "--source", "models:/carded@source", "--target", str(own),
                        "--name", f"adapted-{number}", *METHOD], env)  # fmt: skip
            metrics = job["metrics"]
            targets[name] = {
                "before": metrics["source"]["macro_accuracy"],
                "after": metrics["adapted"]["macro_accuracy"],
                "change": job["change"]["share"],
                "rehearsed": job["rehearsed"],
            }
        return {"rehearsals": card["rehearsals"], "targets": targets}


def some_classes(manifest: Path, classes: Any, out: Path) -> Path:
    """The images of some classes; the manifest states all classes, as before."""
    document = yaml.safe_load(manifest.read_text())
    with np.load(manifest.parent / document["archive"]["file"]) as file:
        own = np.isin(file["y"], list(classes))
        arrays = {name: file[name][own] for name in file.files}
    np.savez(out.with_suffix(".npz"), **arrays)
    digest = hashlib.sha256(out.with_suffix(".npz").read_bytes()).hexdigest()
    document["archive"] = {"file": f"{out.name}.npz", "sha256": digest}
    for entry in document["splits"].values():
        entry["count"] = int((arrays["split"] == entry["equals"]).sum())
    out.with_suffix(".yaml").write_text(yaml.safe_dump(document))
    return out.with_suffix(".yaml")


def call(words: list[str], env: dict[str, str]) -> dict[str, Any]:
    done = subprocess.run(
        [SFDA, *words, "--json"], env=env, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"sfda {words[0]} failed: {done.stderr[-2000:]}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def text(result: dict[str, Any]) -> str:
    done = result["rehearsals"]
    gained = sum(pair["gain"] > 0 for pair in done["pairs"])
    lines = [
        f"{len(done['pairs'])} of {done['planned']} rehearsals in {done['seconds']:.0f} s, "
        f"{gained} of which gained; left out one by one, {done['right']} of "
        f"{done['predicted']} are told right.",
        "",
        "| classes of the target | answers changed | like it, gained | true gain, points |",
        "|---|---:|---:|---:|",
    ]
    for name, one in result["targets"].items():
        seen = one["rehearsed"]
        told = f"{seen['like_gained']} of {seen['like']}" if seen else "not adapted"
        gain = 100 * (one["after"] - one["before"])
        lines.append(f"| {name} | {100 * one['change']:.0f} % | {told} | {gain:+.1f} |")
    return "\n".join(lines)
