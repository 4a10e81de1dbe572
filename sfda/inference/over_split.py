"""Inference over a split: what a network says of all its images, in order; or of some, so that
parts can be shared.

Parts begin where a batch of the whole would, so that their outputs are, bit by bit, those of the
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
from sfda.inference.forward import images_at_once
from sfda.inference.pose import Pose, pose_all
from sfda.inference.segmentation import segment_all
from sfda.loading.labels import ImageSizes, crops_of
from sfda.loading.opened import Opened
from sfda.loading.scan import scan
from sfda.problems.classification.network import ClassOutput
from sfda.refs import InputSpec, ModelSpec
from sfda.state_folder import disk_errors
from sfda.types import Seen

SPLIT_BATCH = 256  # images that a classifier or a pose network is shown at once; pose: four batches
SplitInference = Callable[[nn.Module], Iterator[Any]]


def infer_split(
    network: nn.Module,
    opened: Opened,
    spec: ModelSpec,
    device: torch.device,
    span: tuple[int, int] | None = None,
) -> Iterator[Any]:
    """Outputs for the rows of `span` (first, one after the last), or for all, in order.

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
        crops = crops_of(opened.split)
        own = [crops.crop(row) for row in range(first, end)]
        outputs: Iterator[Any] = pose_all(network, images, spec.input, own, device=device)
    else:
        sizes = _SequenceFrom(ImageSizes(opened.split), first)
        every = segment_all if spec.problem == "segmentation" else detect_all
        outputs = every(network, images, spec.input, device=device, sizes=sizes)
    for row, *output in outputs:
        yield row + first, *output


def spans(size: int, parts: int, spec: ModelSpec) -> list[tuple[int, int]]:
    """At most so many spans of about one length, which begin where batches do."""
    step = SPLIT_BATCH if spec.problem in ("classification", "pose") else _at_once(spec.input)
    length = math.ceil(size / parts / step) * step
    return [(first, min(first + length, size)) for first in range(0, size, length)]


def _at_once(spec: InputSpec) -> int:
    return 1 if spec.tiled else images_at_once(spec.stored)


def _part(images: Any, first: int, end: int) -> Any:
    if (first, end) == (0, len(images)):
        return images
    return images.part(first, end) if isinstance(images, Ragged) else images[first:end]


class _SequenceFrom(Sequence[Any]):
    """A sequence from an index on."""

    def __init__(self, whole: Sequence[Any], first: int) -> None:
        self.whole, self.first = whole, first

    def __len__(self) -> int:
        return len(self.whole) - self.first

    def __getitem__(self, row: Any) -> Any:
        return self.whole[self.first + row]


def write_part(file: Path, outputs: Iterator[Any], problem: str) -> None:
    """Keep outputs in one file (npz), each as it comes; the file is whole or not there."""
    with disk_errors(str(file)):
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_name(f".{file.name}.{os.getpid()}")
        with zipfile.ZipFile(part, "w") as opened:
            for number, output in enumerate(outputs):
                for name, value in _arrays(output, problem).items():
                    with opened.open(f"{number:09d}.{name}.npy", "w", force_zip64=True) as entry:
                        np.lib.format.write_array(entry, value, allow_pickle=False)
        os.replace(part, file)


def read_parts(files: Sequence[Path], problem: str, device: torch.device) -> Iterator[Any]:
    """The outputs of all files, as `look_at` gives them."""
    for file in files:
        with np.load(file, allow_pickle=False) as arrays:
            names = sorted(arrays.files)
            for _, group in groupby(names, key=lambda name: name.partition(".")[0]):
                fields = {name.partition(".")[2]: arrays[name] for name in group}
                yield _output(fields, problem, device)


def _arrays(output: Any, problem: str) -> dict[str, np.ndarray[Any, Any]]:
    if problem == "classification":
        index, out = output
        return {
            "row": index.cpu().numpy(),
            "features": out.features.cpu().numpy(),
            "logits": out.logits.cpu().numpy(),
        }
    row = {"row": np.array(output[0])}
    if problem == "segmentation":
        return row | {"mask": output[1], "confidence": output[2]}
    return row | {
        name: np.asarray(value.cpu() if isinstance(value, torch.Tensor) else value)
        for name, value in output[1]._asdict().items()
    }


def _output(fields: dict[str, np.ndarray[Any, Any]], problem: str, device: torch.device) -> Any:
    if problem == "classification":
        row, features, logits = (
            torch.from_numpy(fields[name]).to(device) for name in ("row", "features", "logits")
        )
        return Seen(row, ClassOutput(features, logits))
    index = int(fields.pop("row"))
    if problem == "segmentation":
        return index, fields["mask"], fields["confidence"]
    if problem == "detection":
        return index, Boxes(**{name: torch.from_numpy(value) for name, value in fields.items()})
    return index, Pose(**fields)
