"""What a network says of all images of a split, in order; or of some, so that parts can be shared.

Parts begin where a batch of the whole would, so that their answers are, bit by bit, those of the
whole.
"""

from __future__ import annotations

import math
import os
import zipfile
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from sfda.building_blocks.boxes import Boxes
from sfda.images.store import Ragged
from sfda.inference.detection import detect_all
from sfda.inference.pose import Pose, pose_all
from sfda.inference.segmentation import PIXELS, segment_all
from sfda.loading import opened as manifests
from sfda.loading.opened import Opened
from sfda.loading.scan import scan
from sfda.problems.classification.network import ClassOutput
from sfda.refs import InputSpec, ModelSpec
from sfda.state_folder import disk_errors
from sfda.types import Seen

BATCH = 256  # images that a classifier or a pose network is shown at once; pose: four batches
Look = Callable[[nn.Module], Iterator[Any]]


def look_at(
    network: nn.Module,
    opened: Opened,
    spec: ModelSpec,
    device: torch.device,
    span: tuple[int, int] | None = None,
) -> Iterator[Any]:
    """Answers for the rows of `span` (first, one after the last), or for all, in order.

    Classification: `Seen` batches. Segmentation: (row, mask, confidence). Detection: (row, Boxes).
    Pose: (row, Pose). Rows are those of the split.
    """
    first, end = span or (0, len(opened.images))
    images = _part(opened.images, first, end)
    if spec.problem == "classification":
        for index, out in scan(images, spec.input, device=device)(network):
            yield Seen(index + first, out)
        return
    if spec.problem == "pose":
        crops = manifests.crops_of(opened.split)
        own = [crops.crop(row) for row in range(first, end)]
        answers: Iterator[Any] = pose_all(network, images, spec.input, own, device=device)
    else:
        sizes = _From(manifests.AnswerSizes(opened.split), first)
        every = segment_all if spec.problem == "segmentation" else detect_all
        answers = every(network, images, spec.input, device=device, sizes=sizes)
    for row, *answer in answers:
        yield row + first, *answer


def spans(size: int, parts: int, spec: ModelSpec) -> list[tuple[int, int]]:
    """At most so many spans of about one length, which begin where batches do."""
    step = BATCH if spec.problem in ("classification", "pose") else _at_once(spec.input)
    length = math.ceil(size / parts / step) * step
    return [(first, min(first + length, size)) for first in range(0, size, length)]


def _at_once(spec: InputSpec) -> int:
    if spec.tiled:
        return 1
    height, width = spec.stored
    return max(1, PIXELS // (height * width))


def _part(images: Any, first: int, end: int) -> Any:
    if (first, end) == (0, len(images)):
        return images
    return images.part(first, end) if isinstance(images, Ragged) else images[first:end]


class _From(Sequence[Any]):
    """A sequence from a place on."""

    def __init__(self, whole: Sequence[Any], first: int) -> None:
        self.whole, self.first = whole, first

    def __len__(self) -> int:
        return len(self.whole) - self.first

    def __getitem__(self, row: Any) -> Any:
        return self.whole[self.first + row]


def write_part(file: Path, answers: Iterator[Any], problem: str) -> None:
    """Keep answers in one file (npz), each as it comes; the file is whole or not there."""
    with disk_errors(str(file)):
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_name(f".{file.name}.{os.getpid()}")
        with zipfile.ZipFile(part, "w") as opened:
            for number, answer in enumerate(answers):
                for name, value in _arrays(answer, problem).items():
                    with opened.open(f"{number:09d}.{name}.npy", "w", force_zip64=True) as entry:
                        np.lib.format.write_array(entry, value, allow_pickle=False)
        os.replace(part, file)


def read_parts(files: Sequence[Path], problem: str, device: torch.device) -> Iterator[Any]:
    """The answers of all files, as `look_at` gives them."""
    for file in files:
        with np.load(file, allow_pickle=False) as found:
            names = sorted(found.files)
            for _, group in groupby(names, key=lambda name: name.partition(".")[0]):
                given = {name.partition(".")[2]: found[name] for name in group}
                yield _answer(given, problem, device)


def _arrays(answer: Any, problem: str) -> dict[str, np.ndarray[Any, Any]]:
    if problem == "classification":
        index, out = answer
        return {
            "row": index.cpu().numpy(),
            "features": out.features.cpu().numpy(),
            "logits": out.logits.cpu().numpy(),
        }
    row = {"row": np.array(answer[0])}
    if problem == "segmentation":
        return row | {"mask": answer[1], "confidence": answer[2]}
    return row | {
        name: np.asarray(value.cpu() if isinstance(value, torch.Tensor) else value)
        for name, value in answer[1]._asdict().items()
    }


def _answer(given: dict[str, np.ndarray[Any, Any]], problem: str, device: torch.device) -> Any:
    if problem == "classification":
        row, features, logits = (
            torch.from_numpy(given[name]).to(device) for name in ("row", "features", "logits")
        )
        return Seen(row, ClassOutput(features, logits))
    row_ = int(given.pop("row"))
    if problem == "segmentation":
        return row_, given["mask"], given["confidence"]
    if problem == "detection":
        return row_, Boxes(**{name: torch.from_numpy(value) for name, value in given.items()})
    return row_, Pose(**given)
