"""What a segmenter is worth on a labelled split."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from sfda.formats.masks import IGNORE
from sfda.loading.labels import labels_in
from sfda.loading.opened import Opened
from sfda.measures.resampled import ImageCounts, Resampled, Tables, mean_of_present
from sfda.problems._outputs import Evaluator, SplitInference
from sfda.problems.classification.metrics import BINS, reliability_of
from sfda.problems.segmentation.metrics import SegmentationMetric
from sfda.refs import ModelSpec, Report


class MaskPair(NamedTuple):
    """One image's mask as a network sees it and as a person does, in the model's classes.

    In the truth 255 does not count. `group` is the volume of a slice, `spacing` its pixels in mm,
    `confidence` how sure the network is of each pixel, 255 being certain.
    """

    mask: UInt8[np.ndarray, "H W"]
    truth: UInt8[np.ndarray, "H W"]
    group: str | None = None
    spacing: tuple[float, ...] | None = None
    confidence: UInt8[np.ndarray, "H W"] | None = None


def segmentation_report(pairs: Iterable[MaskPair], classes: Sequence[str], *, split: str) -> Report:
    """The report over masks; slices of a volume come one after the other."""
    metric, bins = SegmentationMetric(classes), torch.zeros(3, BINS, dtype=torch.double)
    for pair in pairs:
        metric.update(pair.mask, pair.truth, group=pair.group, spacing=pair.spacing)
        bins += pixel_bins(pair)
    return Report(
        split=split,
        count=metric.count,
        metrics=metric.compute(),
        per_class=metric.per_class(),
        confusion=metric.confusion.tolist(),
        reliability=reliability_of(bins),
        note=metric.note(),
    )


def pixel_bins(pair: MaskPair) -> Float[Tensor, "3 M"]:
    """Pixels that count, by the probability of their class: ones, confidences and hits, summed."""
    bins = torch.zeros(3, BINS, dtype=torch.double)
    if pair.confidence is None:
        return bins
    counts = pair.truth != IGNORE
    sure, right = pair.confidence[counts], pair.mask[counts] == pair.truth[counts]
    answers = np.bincount(sure, minlength=256)
    levels = np.arange(256) / 255
    sums = np.stack([answers, answers * levels, np.bincount(sure[right], minlength=256)])
    number = torch.from_numpy(np.minimum((levels * BINS).astype(np.int64), BINS - 1))
    return bins.index_add(1, number, torch.from_numpy(sums.astype(np.float64)))


def evaluator_for(
    opened: Opened,
    spec: ModelSpec,
    device: torch.device,
    infer: SplitInference,
    *,
    unknown: bool = True,
) -> Evaluator:
    """How to evaluate networks of this spec on an opened split; nothing is rejected here.

    Raises BadInput where the split has no labels, or they do not fit the model's classes.
    """
    split = opened.split
    truth = labels_in(split, spec.classes)

    def pairs(network: nn.Module) -> Iterator[MaskPair]:
        for row, mask, confidence in infer(network):
            yield MaskPair(
                mask,
                truth.mask(row),
                group=split.groups[row] if split.groups else None,
                spacing=split.spacings[row] if split.spacings else None,
                confidence=confidence,
            )

    def evaluate(network: nn.Module, reject: float | None) -> Report:
        return segmentation_report(pairs(network), spec.classes, split=split.name)

    return evaluate


def resampled(
    opened: Opened, spec: ModelSpec, outputs: Iterable[Any], *, reject: float | None
) -> Resampled:
    """The mean IoU over the classes that occur in a resample's truth or masks."""
    truth, tables = labels_in(opened.split, spec.classes), Tables(len(spec.classes))
    for row, mask, _ in outputs:
        own = truth.mask(row)
        counts = own != IGNORE
        tables.add(own[counts], mask[counts])
    summed = tables.summed()

    def mean_iou(weights: ImageCounts) -> float:
        table = summed(weights)
        right = table.diagonal()
        return mean_of_present(right, table.sum(0) + table.sum(1) - right)

    return Resampled("mean_iou", mean_iou)
