"""The panel of a detection: the images whose boxes the adaptation changed most."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch import nn

from sfda.building_blocks.device import DeviceName, choose, to_device
from sfda.decision.evaluation import box_arrays
from sfda.inference.detection import detect_all
from sfda.loading.labels import ImageSizes, boxes_for
from sfda.loading.opened import Opened
from sfda.problems.detection.metrics import BoxesOf
from sfda.problems.detection.panel import BoxSample, box_panel, boxes_changed
from sfda.refs import ManifestRef, ModelSpec
from sfda.report.changed_images import most_changed, open_for_panel, rgb, sampled_rows


def draw_box_panel(
    source: nn.Module,
    adapted: nn.Module,
    spec: ModelSpec,
    manifest: ManifestRef,
    split: str,
    title: str,
    device: DeviceName,
    *,
    labelled: bool,
) -> bytes:
    """A PNG of image, source's boxes, adapted boxes and, where `labelled`, the truth."""
    chosen = choose(device)
    before, after = to_device(source, chosen), to_device(adapted, chosen)
    opened = open_for_panel(manifest, split, spec, labelled=labelled)
    truth = boxes_for(opened.split, spec.classes, unknown=True) if labelled else None
    samples = [
        BoxSample(
            name=opened.split.names[row],
            image=rgb(opened.split.image(row, spec.input.window)),
            source=first,
            adapted=second,
            truth=BoxesOf(truth[row].boxes, truth[row].labels) if truth else None,
        )
        for row, first, second in changed_boxes(before, after, opened, spec)
    ]
    return box_panel(samples, spec.classes, title=f"{title}  (split {split})")


def changed_boxes(
    before: nn.Module, after: nn.Module, opened: Opened, spec: ModelSpec
) -> list[tuple[int, BoxesOf, BoxesOf]]:
    """(row, source's boxes, adapted boxes), the largest share of changed boxes first.

    At most 64 images are compared.
    """
    return most_changed(
        (boxes_changed(one, other), (row, one, other))
        for row, one, other in _box_pairs(before, after, opened, spec)
    )


def _box_pairs(
    before: nn.Module, after: nn.Module, opened: Opened, spec: ModelSpec
) -> Iterator[tuple[int, BoxesOf, BoxesOf]]:
    device = next(before.parameters()).device
    sizes = ImageSizes(opened.split)
    rows = sampled_rows(len(sizes))
    stored = np.stack([opened.images[row] for row in rows])
    row_sizes = [sizes[row] for row in rows]
    detections = (
        detect_all(network, stored, spec.input, device=device, sizes=row_sizes)
        for network in (before, after)
    )
    for row, (_, one), (_, other) in zip(rows, *detections, strict=True):
        yield row, box_arrays(one), box_arrays(other)
