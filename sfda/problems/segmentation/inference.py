"""What a segmenter says of a set: masks, kept, written and summed up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from jaxtyping import Int, UInt8
from PIL import Image
from torch import nn

from sfda.building_blocks.losses import ClassLogits
from sfda.inference.forward import images_at_once
from sfda.inference.predictions import HISTOGRAM_BINS
from sfda.inference.summaries import Summary, summarise
from sfda.loading.labels import ImageSizes
from sfda.loading.opened import Opened
from sfda.measures.tally import Tally
from sfda.problems.class_outputs import class_agreement, class_entropy, tally_classes
from sfda.problems.segmentation.network import SegOutput
from sfda.problems.segmentation.segment import segment_all
from sfda.refs import ModelSpec, Profile

MASK_NAME_BYTES = 200  # bytes of one part of a mask's path: file systems take 255

MaskOfRow = tuple[int, UInt8[np.ndarray, "H W"], UInt8[np.ndarray, "H W"]]
"""A row, its mask, and its confidence times 255."""

entropy_sum, agreement_counts = class_entropy, class_agreement


def infer_rows(
    network: nn.Module,
    opened: Opened,
    spec: ModelSpec,
    device: torch.device,
    span: tuple[int, int],
) -> Iterator[MaskOfRow]:
    """(row, mask, confidence) of the rows of a span."""
    images, sizes = opened.part(*span), ImageSizes(opened.split, span[0])
    for row, *output in segment_all(network, images, spec.input, device=device, sizes=sizes):
        mask, confidence = output
        yield row + span[0], mask, confidence


def at_once(spec: ModelSpec) -> int:
    """Frames of a batch; images that come tile by tile come alone."""
    return 1 if spec.input.tiled else images_at_once(spec.input.stored)


def to_arrays(output: MaskOfRow) -> dict[str, np.ndarray[Any, Any]]:
    """Row, mask and confidence."""
    row, mask, confidence = output
    return {"row": np.array(row), "mask": mask, "confidence": confidence}


def from_arrays(arrays: dict[str, Any], device: torch.device) -> MaskOfRow:
    """The same back."""
    return int(arrays["row"]), arrays["mask"], arrays["confidence"]


def summarise_output(output: SegOutput) -> Summary:
    """Means over pixels."""
    return summarise(output.features, output.logits)


def prediction_table(
    network: nn.Module, spec: ModelSpec, opened: Opened, device: torch.device, out: Path
) -> tuple[Sequence[str], Iterable[Sequence[Any]]]:
    """File, mask, mean confidence, and the share of each class; the masks lie in `masks/` under the
    images' names, class indices of the images' size.
    """
    return ("file", "mask", "confidence", *spec.classes), _lines(network, spec, opened, device, out)


def _lines(
    network: nn.Module, spec: ModelSpec, opened: Opened, device: torch.device, out: Path
) -> Iterator[Sequence[Any]]:
    split = opened.split
    names = mask_names(split.names, split.row_ids)
    for row, mask, sure in infer_rows(network, opened, spec, device, (0, len(opened.images))):
        path = PurePosixPath("masks", names[row])
        (out / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask).save(out / path)
        shares = np.bincount(mask.ravel(), minlength=len(spec.classes)) / mask.size
        mean = float(sure.mean()) / 255
        yield split.names[row], path, f"{mean:.6f}", *(f"{share:.6f}" for share in shares)


def mask_names(names: Sequence[str], ids: Sequence[str]) -> list[str]:
    """Where the masks of images lie, below `masks/`; names that would meet, or that are the folder
    of another, take their row's id, and names that are too long are their row's id.

    >>> mask_names(["day/0001.jpg", "case1.nii.gz#12", "x:7", "x#7"], ["a", "b", "c", "d"])
    ['day/0001.jpg.png', 'case1.nii.gz-12.png', 'x-7.c.png', 'x-7.d.png']
    """
    plain = [name.replace("#", "-").replace(":", "-") for name in names]
    times = Counter(plain)
    folders = {str(folder) for name in plain for folder in PurePosixPath(name).parents}
    return [
        f"{own}.png"
        if any(len(part.encode()) > MASK_NAME_BYTES for part in name.split("/"))
        else f"{name}.png"
        if times[name] == 1 and f"{name}.png" not in folders
        else f"{name}.{own}.png"
        for name, own in zip(plain, ids, strict=True)
    ]


def keep_outputs(outputs: Iterable[MaskOfRow], spec: ModelSpec, part: Path, size: int) -> Profile:
    """`masks/<row>.png` and `confidences/<row>.png`, and `ratios.npy` [N, C], the share of each
    class in each image. Nothing but one image is in memory.
    """
    for name in ("masks", "confidences"):
        (part / name).mkdir()
    profile = PixelProfile(spec.classes)
    ratios = np.zeros((size, len(spec.classes)), dtype=np.float32)
    for row, mask, confidence in outputs:
        counts = np.bincount(mask.ravel(), minlength=len(spec.classes))
        ratios[row] = counts / counts.sum()
        profile.update(counts, confidence)
        Image.fromarray(mask).save(part / "masks" / f"{row:06d}.png")
        Image.fromarray(confidence).save(part / "confidences" / f"{row:06d}.png")
    np.save(part / "ratios.npy", ratios)
    return profile.compute()


class PixelProfile:
    """Class and confidence histograms over the pixels of a set."""

    def __init__(self, classes: tuple[str, ...]) -> None:
        self.classes = classes
        self.counts = np.zeros(len(classes), dtype=np.int64)
        self.levels = np.zeros(256, dtype=np.int64)

    def update(self, counts: Int[np.ndarray, " C"], confidence: UInt8[np.ndarray, "H W"]) -> None:
        """Take in one image: pixels by class, and the confidence of each."""
        self.counts += counts
        self.levels += np.bincount(confidence.ravel(), minlength=256)

    def compute(self) -> Profile:
        """`classes` {name: pixels}, `confidence_histogram` (20 bins), `mean_confidence`, `unit`."""
        level = np.arange(256) / 255
        bin_of = np.minimum((level * HISTOGRAM_BINS).astype(int), HISTOGRAM_BINS - 1)
        bins = np.bincount(bin_of, weights=self.levels, minlength=HISTOGRAM_BINS).astype(np.int64)
        pixels = max(1, int(self.levels.sum()))
        return {
            "classes": dict(zip(self.classes, self.counts.tolist(), strict=True)),
            "confidence_histogram": bins.tolist(),
            "mean_confidence": float((level * self.levels).sum() / pixels),
            "unit": "pixels",
        }


def tally(output: ClassLogits) -> Tally:
    """By pixel; of large maps a regular grid counts."""
    return tally_classes(output)
