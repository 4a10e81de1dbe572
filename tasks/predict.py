"""Answers of a model for every image of a set."""

from __future__ import annotations

import csv
import os
from pathlib import Path

from sfda.data.loaders import scan
from tasks import manifests
from tasks.device import DeviceName, choose, place
from tasks.home import disk_errors
from tasks.models import open_model, refer


def predict(model: str, target: str, split: str, out: Path, device: DeviceName) -> tuple[int, Path]:
    """Write `predictions.csv` (file, label, confidence) to a folder; the count and the file."""
    network, spec = open_model(refer(model))
    chosen = choose(device)
    manifest = manifests.open_ref(manifests.refer(target)).unlabelled()
    opened = manifests.open_split(manifest, split, spec.input)
    file, part = out / "predictions.csv", out / f".predictions.{os.getpid()}"
    with disk_errors(str(file)):
        out.mkdir(parents=True, exist_ok=True)
        with part.open("w", newline="", encoding="utf-8") as opened_file:
            writer = csv.writer(opened_file)
            writer.writerow(("file", "label", "confidence"))
            look = scan(opened.images, spec.input, device=chosen)
            for index, output in look(place(network, chosen)):
                top = output.logits.softmax(1).max(1)
                for row, label, sure in zip(
                    index.tolist(), top.indices.tolist(), top.values.tolist(), strict=True
                ):
                    writer.writerow((opened.split.names[row], spec.classes[label], f"{sure:.6f}"))
        os.replace(part, file)
    return len(opened.images), file
