"""The panel of a detection: the images whose boxes the adaptation changed most."""

from __future__ import annotations

import heapq
from itertools import count
from typing import Any

import numpy as np
from torch import nn

from sfda.building_blocks.device import DeviceName, choose, place
from sfda.inference.detection import detect_all
from sfda.loading import opened as manifests
from sfda.loading.opened import Opened
from sfda.problems.detection.metrics import BoxesOf
from sfda.problems.detection.panel import BoxSample, box_panel, difference
from sfda.refs import ManifestRef, ModelSpec
from sfda.report.reports import as_arrays
from sfda.report.segmentation_panel import LOOKED_AT, SHOWN, open_labelled, rgb


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
    before, after = place(source, chosen), place(adapted, chosen)
    opened = open_labelled(manifest, split, spec, labelled=labelled)
    found = most_changed(before, after, opened, spec)
    truth = manifests.boxes_for(opened.split, spec.classes, unknown=True) if labelled else None
    samples = [
        BoxSample(
            name=opened.split.names[row],
            image=rgb(opened.split.image(row, spec.input.window)),
            source=first,
            adapted=second,
            truth=BoxesOf(truth[row].boxes, truth[row].labels) if truth else None,
        )
        for row, first, second in found
    ]
    return box_panel(samples, spec.classes, title=f"{title}  (split {split})")


def most_changed(
    before: nn.Module, after: nn.Module, opened: Opened, spec: ModelSpec
) -> list[tuple[int, BoxesOf, BoxesOf]]:
    """(row, source's boxes, adapted boxes), the largest share of changed boxes first.

    At most 64 images are looked at.
    """
    device = next(before.parameters()).device
    sizes = manifests.AnswerSizes(opened.split)
    rows = np.unique(np.linspace(0, len(sizes) - 1, LOOKED_AT).round().astype(int)).tolist()
    given: dict[str, Any] = {"device": device, "sizes": [sizes[row] for row in rows]}
    stored = np.stack([opened.images[row] for row in rows])
    looks = (detect_all(network, stored, spec.input, **given) for network in (before, after))
    kept: list[tuple[float, int, int, BoxesOf, BoxesOf]] = []
    for row, number, (_, first), (_, second) in zip(rows, count(), *looks, strict=False):
        one, other = as_arrays(first), as_arrays(second)
        entry = (difference(one, other), -number, row, one, other)
        (heapq.heappush if len(kept) < SHOWN else heapq.heappushpop)(kept, entry)
    return [(row, one, other) for _, _, row, one, other in sorted(kept, reverse=True)]
