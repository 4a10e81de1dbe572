"""The panel of a segmentation: the images whose answers the adaptation changed most."""

from __future__ import annotations

import heapq
from itertools import count

import numpy as np
from torch import nn

from sfda.building_blocks.device import DeviceName, choose, place
from sfda.formats.masks import Mask
from sfda.images.intensity_window import Picture
from sfda.inference.segmentation import segment
from sfda.loading import opened as manifests
from sfda.loading.opened import Opened
from sfda.problems.segmentation.panel import Sample, panel
from sfda.refs import ManifestRef, ModelSpec

LOOKED_AT = 64  # images, evenly spread over the split
SHOWN = 4


def draw_panel(
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
    """A PNG of image, source's answer, adapted answer and, where `labelled`, the truth."""
    chosen = choose(device)
    before, after = place(source, chosen), place(adapted, chosen)
    opened = open_labelled(manifest, split, spec, labelled=labelled)
    found = most_changed(before, after, opened, spec)
    table = manifests.mask_table(opened.split, spec.classes) if labelled else None
    samples = [
        Sample(
            name=opened.split.names[row],
            image=rgb(opened.split.image(row, spec.input.window)),
            source=first,
            adapted=second,
            truth=table[opened.split.masks.mask(row)]
            if table is not None and opened.split.masks
            else None,
        )
        for row, first, second in found
    ]
    return panel(samples, spec.classes, title=f"{title}  (split {split})")


def open_labelled(manifest: ManifestRef, split: str, spec: ModelSpec, *, labelled: bool) -> Opened:
    """The split, without its labels unless those are shown."""
    opened = manifests.open_ref(manifest)
    return manifests.open_split(opened if labelled else opened.unlabelled(), split, spec.input)


def rgb(image: Picture) -> Picture:
    """A grey image [H, W] or a colour image, in colours [H, W, 3]."""
    return image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2)


def most_changed(
    before: nn.Module, after: nn.Module, opened: Opened, spec: ModelSpec
) -> list[tuple[int, Mask, Mask]]:
    """(row, source's mask, adapted mask), the largest share of changed pixels first.

    At most 64 images are looked at, and only the masks of the best are in memory.
    """
    device = next(before.parameters()).device
    sizes = manifests.AnswerSizes(opened.split)
    rows = np.unique(np.linspace(0, len(sizes) - 1, LOOKED_AT).round().astype(int)).tolist()
    kept: list[tuple[float, int, int, Mask, Mask]] = []
    for row, number in zip(rows, count()):
        image = opened.images[row]
        first, second = (
            segment(network, image, spec.input, device=device, out_size=sizes[row])[0]
            for network in (before, after)
        )
        entry = (float((first != second).mean()), -number, row, first, second)
        (heapq.heappush if len(kept) < SHOWN else heapq.heappushpop)(kept, entry)
    return [(row, first, second) for _, _, row, first, second in sorted(kept, reverse=True)]
