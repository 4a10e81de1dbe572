"""Inference over a split: what a network says of all its images, in order; or of some, so that
parts can be shared.

Parts begin where a batch of the whole would, so that their outputs are, bit by bit, those of the
whole.
"""

from __future__ import annotations

import math
import os
import zipfile
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from sfda.loading.opened import Opened
from sfda.problems.registry import PROBLEMS
from sfda.refs import ModelSpec
from sfda.state_folder import disk_errors


def infer_split(
    network: nn.Module,
    opened: Opened,
    spec: ModelSpec,
    device: torch.device,
    span: tuple[int, int] | None = None,
) -> Iterator[Any]:
    """Outputs for the rows of `span` (first, one after the last), or for all, in order, as the
    problem's `infer` gives them. Rows are those of the split.
    """
    whole = (0, len(opened.images))
    return PROBLEMS[spec.problem].infer(network, opened, spec, device, span or whole)


def spans(size: int, parts: int, spec: ModelSpec) -> list[tuple[int, int]]:
    """At most so many spans of about one length, which begin where batches do."""
    step = PROBLEMS[spec.problem].at_once(spec)
    length = math.ceil(size / parts / step) * step
    return [(first, min(first + length, size)) for first in range(0, size, length)]


def write_part(file: Path, outputs: Iterator[Any], problem: str) -> None:
    """Keep outputs in one file (npz), each as it comes; the file is whole or not there."""
    to_arrays = PROBLEMS[problem].to_arrays
    with disk_errors(str(file)):
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_name(f".{file.name}.{os.getpid()}")
        with zipfile.ZipFile(part, "w") as opened:
            for number, output in enumerate(outputs):
                for name, value in to_arrays(output).items():
                    with opened.open(f"{number:09d}.{name}.npy", "w", force_zip64=True) as entry:
                        np.lib.format.write_array(entry, value, allow_pickle=False)
        os.replace(part, file)


def read_parts(files: Sequence[Path], problem: str, device: torch.device) -> Iterator[Any]:
    """The outputs of all files, as `infer_split` gives them."""
    from_arrays = PROBLEMS[problem].from_arrays
    for file in files:
        with np.load(file, allow_pickle=False) as arrays:
            names = sorted(arrays.files)
            for _, group in groupby(names, key=lambda name: name.partition(".")[0]):
                fields = {name.partition(".")[2]: arrays[name] for name in group}
                yield from_arrays(fields, device)
