"""Answers of a model for every image of a set."""

from __future__ import annotations

import csv
import os
from pathlib import Path

from sfda.data.loaders import scan
from sfda.rejection import NAME as UNKNOWN_NAME
from sfda.rejection import answers
from tasks import manifests
from tasks.device import DeviceName, choose, place
from tasks.home import disk_errors
from tasks.models import open_model, refer


def predict(model: str, target: str, split: str, out: Path, device: DeviceName) -> tuple[int, Path]:
    """Write `predictions.csv` (file, label, confidence) to a folder; the count and the file.

    The confidence is the likeliest class's probability, also where the label is "unknown".
    """
    network, spec = open_model(refer(model))
    chosen = choose(device)
    manifest = manifests.open_ref(manifests.refer(target)).unlabelled()
    opened = manifests.open_split(manifest, split, spec.input)
    names = (*spec.classes, UNKNOWN_NAME)  # UNKNOWN is -1, the last
    file, part = out / "predictions.csv", out / f".predictions.{os.getpid()}"
    with disk_errors(str(file)):
        out.mkdir(parents=True, exist_ok=True)
        with part.open("w", newline="", encoding="utf-8") as opened_file:
            writer = csv.writer(opened_file)
            writer.writerow(("file", "label", "confidence"))
            look = scan(opened.images, spec.input, device=chosen)
            for index, output in look(place(network, chosen)):
                probs = output.logits.softmax(1)
                given = answers(probs, spec.reject)
                for row, label, sure in zip(
                    index.tolist(), given.tolist(), probs.amax(1).tolist(), strict=True
                ):
                    writer.writerow((opened.split.names[row], names[label], f"{sure:.6f}"))
        os.replace(part, file)
    return len(opened.images), file
