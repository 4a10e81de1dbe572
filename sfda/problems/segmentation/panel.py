"""The panel of a segmentation, as PNG bytes: images, what both models predict, and the truth."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from torch import nn

from sfda.formats.masks import Mask
from sfda.images.plotting import Axes, Patch
from sfda.loading.labels import ImageSizes, labels_in
from sfda.loading.opened import Opened
from sfda.problems.changed_images import most_changed, rgb, sampled_rows
from sfda.problems.panel_frame import (
    LEGEND,
    ending,
    palette,
    png,
    row_height,
    sheet,
    shortened,
    small,
)
from sfda.problems.segmentation.change import pixels_changed
from sfda.problems.segmentation.segment import segment
from sfda.refs import ModelSpec


@dataclass(frozen=True)
class Sample:
    """One image, the masks of both models, and the truth where there is one (255: no truth)."""

    name: str
    image: UInt8[np.ndarray, "H W 3"]
    source: Mask
    adapted: Mask
    truth: Mask | None = None

    @property
    def changed(self) -> float:
        """Share of the pixels whose class changed."""
        return pixels_changed(self.source, self.adapted)


def panel(samples: Sequence[Sample], classes: Sequence[str], *, title: str) -> bytes:
    """One row a sample: image, source, adapted, and the truth where any sample has one."""
    columns = 3 + any(sample.truth is not None for sample in samples)
    patches = _legend(samples, classes)
    longest = max(len(str(patch.get_label())) for patch in patches)
    across = max(1, min(len(patches), 6, int(3.6 * columns / (0.75 + 0.075 * longest))))
    below = 0.65 + 0.21 * -(-len(patches) // across)  # title and legend
    size = (3.6 * columns, row_height(samples[0].image) * len(samples) + below)
    figure, grid = sheet(len(samples), columns, size=size, title=title)
    for row, sample in zip(grid, samples, strict=True):
        _row(row, sample)
    figure.legend(handles=patches, loc="outside lower center", ncols=across, fontsize=9)
    return png(figure)


def _legend(samples: Sequence[Sample], classes: Sequence[str]) -> list[Patch]:
    """The colours of the classes that are seen, and what else there is to know of colours."""
    shown = _shown(samples, len(classes))
    patches = [
        Patch(color=_hexed(palette()[c]), label=shortened(classes[c])) for c in shown[:LEGEND]
    ]
    if len(shown) > LEGEND:
        patches.append(Patch(alpha=0, label=f"and {len(shown) - LEGEND} more classes"))
    if any(s.truth is not None and (s.truth == 255).any() for s in samples):
        patches.append(Patch(color=_hexed(palette()[255]), label="does not count"))
    return patches


def _row(axes: Sequence[Axes], sample: Sample) -> None:
    shown = [("image", small(sample.image))]
    masks = (("source", sample.source), ("adapted", sample.adapted), ("truth", sample.truth))
    shown += [(name, coloured(small(mask))) for name, mask in masks if mask is not None]
    for axis, (name, picture) in zip(axes, shown, strict=False):
        axis.imshow(picture, interpolation="nearest")
        text = f"{name}, {sample.changed:.0%} changed" if name == "adapted" else name
        axis.set_title(ending(sample.name) if name == "image" else text, fontsize=9)


def coloured(mask: Mask) -> UInt8[np.ndarray, "H W 3"]:
    """A mask in the classes' colours; what does not count is light grey."""
    picture: UInt8[np.ndarray, "H W 3"] = palette()[mask]
    return picture


def _hexed(colour: UInt8[np.ndarray, " 3"]) -> str:
    return "#" + bytes(colour).hex()


def _shown(samples: Sequence[Sample], classes: int) -> list[int]:
    masks = [m for s in samples for m in (s.source, s.adapted, s.truth) if m is not None]
    seen = np.zeros(256, bool)
    for mask in masks:
        seen |= np.bincount(mask.ravel(), minlength=256) > 0
    return [int(c) for c in np.flatnonzero(seen[:classes])]


def draw_changed(
    source: nn.Module, adapted: nn.Module, opened: Opened, spec: ModelSpec, title: str
) -> bytes:
    """A PNG of image, source's mask, adapted mask and, where there are labels, the truth."""
    split = opened.split
    truth = labels_in(split, spec.classes) if split.labels else None
    samples = [
        Sample(
            name=split.names[row],
            image=rgb(split.image(row, spec.input.window)),
            source=first,
            adapted=second,
            truth=truth.mask(row) if truth else None,
        )
        for row, first, second in changed_masks(source, adapted, opened, spec)
    ]
    return panel(samples, spec.classes, title=title)


def changed_masks(
    before: nn.Module, after: nn.Module, opened: Opened, spec: ModelSpec
) -> list[tuple[int, Mask, Mask]]:
    """(row, source's mask, adapted mask), the largest share of changed pixels first.

    At most 64 images are compared, and only the masks of the best are in memory.
    """
    return most_changed(
        (pixels_changed(one, other), (row, one, other))
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
