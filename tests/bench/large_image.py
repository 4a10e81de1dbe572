"""Memory of a process that evaluates an image of 4096 x 4096 pixels, and how long that takes.

A colour image and its mask lie on disk as PNG files with a manifest. A process of its own opens
them, decodes the image, answers every pixel with our U-Net on two threads, and scores the answer:
once in tiles at full resolution, once as a frame of the network's size whose logits are enlarged.
The peak is what Linux says of that process, the interpreter and torch included.
"""

from __future__ import annotations

import csv
import hashlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image

from sfda.images.decode import decode_images
from sfda.loading.opened import decode_key
from sfda.manifests.opening import open_manifest
from sfda.manifests.rows import read_split, unlabelled_digest
from sfda.problems.segmentation.evaluation import MaskPair, segmentation_report
from sfda.problems.segmentation.labels import MaskLabels
from sfda.problems.segmentation.segment import segment_all
from sfda.refs import InputSpec
from tests.library_networks import segmenter

SIDE = 4096
CASES = (("tiles of 512 px", 19, True), ("a frame of 512 px, enlarged", 19, False))
LIMIT_MB = 2000


def measure(out: Path) -> dict[str, Any]:
    """Both cases, each in a fresh process."""
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder))
        return {"cases": [case(Path(folder), *inputs) for inputs in CASES]}


def write(folder: Path) -> None:
    """A smooth picture of many colours, its mask, a row file and a manifest."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8))
    coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(folder / "image.png")
    blocks = Image.fromarray(rng.integers(0, CASES[0][1], (64, 64), dtype=np.uint8))
    blocks.resize((SIDE, SIDE), Image.Resampling.NEAREST).save(folder / "mask.png")
    table = folder / "rows.csv"
    with table.open("w", newline="") as opened:
        csv.writer(opened).writerows([("file", "mask"), ("image.png", "mask.png")])
    digest = hashlib.sha256(table.read_bytes()).hexdigest()
    document = {
        "name": "bench/large",
        "problem": "segmentation",
        "origin": "made by a benchmark",
        "root": ".",
        "classes": [f"class {i}" for i in range(CASES[0][1])],
        "splits": {"test": {"rows": table.name, "sha256": digest, "count": 1}},
    }
    (folder / "large.yaml").write_text(yaml.safe_dump(document))


def case(folder: Path, name: str, classes: int, tiled: bool) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.bench.large_image", str(folder), str(classes)]
    done = subprocess.run(
        [*command, "tiled" if tiled else "whole"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{name} failed: {done.stderr[-2000:]}")
    return {"name": name, "classes": classes, **json.loads(done.stdout.splitlines()[-1])}


def evaluate(folder: Path, classes: int, tiled: bool) -> dict[str, Any]:
    """The work of the process that is measured."""
    torch.manual_seed(0)
    torch.set_num_threads(2)
    network = segmenter("sfda:unet", classes)
    spec = InputSpec(size=(512, 512), tiled=tiled, mean=(0.5,) * 3, std=(0.25,) * 3)
    before = peak_mb()
    started = time.perf_counter()
    manifest = open_manifest(folder / "large.yaml")
    split = read_split(manifest, "test")
    key = decode_key(unlabelled_digest(manifest, "test"), spec)
    images = decode_images(split, spec, folder / "decoded", key=key)
    answers = segment_all(network, images, spec, device="cpu", sizes=[(SIDE, SIDE)])
    truth, names = split.labels, split.classes
    assert isinstance(truth, MaskLabels)
    assert isinstance(names, tuple)
    scored = (MaskPair(mask, truth.mask(row)) for row, mask, _ in answers)
    result = segmentation_report(scored, names, split="test")
    pixels = int(np.sum(result.confusion))
    assert pixels == SIDE * SIDE
    seconds = time.perf_counter() - started
    return {"before_mb": before, "peak_mb": peak_mb(), "seconds": seconds, "pixels": pixels}


def peak_mb() -> float:
    """Largest resident memory of this process so far."""
    # not getrusage's: that one may come from the process that started this one
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1000
    raise RuntimeError("no VmHWM in /proc/self/status")


def text(result: dict[str, Any]) -> str:
    lines = [
        f"| one image of {SIDE} x {SIDE} pixels | classes | before, MB | peak, MB | seconds |",
        "|---|---:|---:|---:|---:|",
    ]
    for row in result["cases"]:
        over = "" if row["peak_mb"] < LIMIT_MB else f" (over {LIMIT_MB})"
        lines.append(
            f"| {row['name']} | {row['classes']} | {row['before_mb']:.0f} "
            f"| {row['peak_mb']:.0f}{over} | {row['seconds']:.1f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    found = evaluate(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "tiled")
    sys.stdout.write(json.dumps(found) + "\n")
