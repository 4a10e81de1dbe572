"""The panel of a segmentation: the images whose masks the adaptation changed most."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from sfda.building_blocks.device import DeviceName, choose, to_device
from sfda.formats.masks import Mask
from sfda.inference.segmentation import segment
from sfda.loading.labels import ImageSizes, mask_table
from sfda.loading.opened import Opened
from sfda.problems.segmentation.panel import Sample, panel
from sfda.refs import ManifestRef, ModelSpec
from sfda.report.changed_images import most_changed, open_for_panel, rgb, sampled_rows


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
    """A PNG of image, source's mask, adapted mask and, where `labelled`, the truth."""
    chosen = choose(device)
    before, after = to_device(source, chosen), to_device(adapted, chosen)
    opened = open_for_panel(manifest, split, spec, labelled=labelled)
    table = mask_table(opened.split, spec.classes) if labelled else None
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
        for row, first, second in changed_masks(before, after, opened, spec)
    ]
    return panel(samples, spec.classes, title=f"{title}  (split {split})")


def changed_masks(
    before: nn.Module, after: nn.Module, opened: Opened, spec: ModelSpec
) -> list[tuple[int, Mask, Mask]]:
    """(row, source's mask, adapted mask), the largest share of changed pixels first.

    At most 64 images are compared, and only the masks of the best are in memory.
    """
    return most_changed(
        (float((one != other).mean()), (row, one, other))
        for row, one, other in _mask_pairs(before, after, opened, spec)
    )


def _mask_pairs(
    before: nn.Module, after: nn.Module, opened: Opened, spec: ModelSpec
) -> Iterator[tuple[int, Mask, Mask]]:
    device = next(before.parameters()).device
    sizes = ImageSizes(opened.split)
    for row in sampled_rows(len(sizes)):
        image = opened.images[row]
        one, other = (
            segment(network, image, spec.input, device=device, out_size=sizes[row]).mask
            for network in (before, after)
        )
        yield row, one, other
