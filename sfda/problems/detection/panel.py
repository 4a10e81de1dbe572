"""The panel of a detection, as PNG bytes: images with the boxes of both models, and the truth."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from torch import nn

from sfda.images.plotting import Axes, Patch, Rectangle
from sfda.loading.labels import ImageSizes, labels_in
from sfda.loading.opened import Opened
from sfda.problems.changed_images import most_changed, rgb, sampled_rows
from sfda.problems.detection.change import boxes_changed, sure_of
from sfda.problems.detection.inference import box_arrays, detect_all
from sfda.problems.detection.metrics import BoxesOf
from sfda.problems.panel_frame import (
    COLOURS,
    LEGEND,
    ending,
    label_point,
    png,
    row_height,
    sheet,
    shortened,
    small,
)
from sfda.refs import ModelSpec


@dataclass(frozen=True)
class BoxSample:
    """One image, the boxes of both models, and those of a person where there are some."""

    name: str
    image: UInt8[np.ndarray, "H W 3"]
    source: BoxesOf
    adapted: BoxesOf
    truth: BoxesOf | None = None

    @property
    def changed(self) -> float:
        """Share of the sure boxes of either model that the other does not have."""
        return boxes_changed(self.source, self.adapted)


def box_panel(samples: Sequence[BoxSample], classes: Sequence[str], *, title: str) -> bytes:
    """One row a sample: image, source, adapted, and the truth where any sample has one."""
    columns = 3 + any(sample.truth is not None for sample in samples)
    shown = _shown(samples)[:LEGEND]
    patches = [Patch(color=_colour(c), label=shortened(classes[c])) for c in shown]
    across = max(1, min(len(patches), 6))
    below = 0.65 + 0.21 * -(-len(patches) // across)
    size = (3.6 * columns, row_height(samples[0].image) * len(samples) + below)
    figure, grid = sheet(len(samples), columns, size=size, title=title)
    for row, sample in zip(grid, samples, strict=True):
        _row(row, sample)
    if patches:
        figure.legend(handles=patches, loc="outside lower center", ncols=across, fontsize=9)
    return png(figure)


def _row(axes: Sequence[Axes], sample: BoxSample) -> None:
    picture = small(sample.image)
    ratio = picture.shape[1] / sample.image.shape[1]
    changed = f"adapted, {sample.changed:.0%} changed"
    parts: list[tuple[str, BoxesOf | None]] = [
        (ending(sample.name), None),
        ("source", sample.source),
        (changed, sample.adapted),
    ]
    if sample.truth is not None:
        parts.append(("truth", sample.truth))
    for axis, (name, boxes) in zip(axes, parts, strict=False):
        axis.imshow(picture)
        axis.set_title(name, fontsize=9)
        if boxes is not None:
            _draw(axis, sure_of(boxes), ratio)


def _draw(axis: Axes, boxes: BoxesOf, ratio: float) -> None:
    """Boxes, each with its score at the corner that is on the picture."""
    scores = [None] * len(boxes.labels) if boxes.scores is None else boxes.scores.tolist()
    for box, label, score in zip(boxes.boxes * ratio, boxes.labels, scores, strict=True):
        x1, y1, x2, y2 = map(float, box)
        axis.add_patch(
            Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, lw=1.4, edgecolor=_colour(label))
        )
        if score is not None:
            label_point(axis, (max(x1, 0.0), max(y1, 0.0)), f"{score:.2f}", _colour(label))


def _shown(samples: Sequence[BoxSample]) -> list[int]:
    drawn = [b for s in samples for b in (s.source, s.adapted, s.truth) if b is not None]
    return sorted({int(label) for boxes in drawn for label in sure_of(boxes).labels})


def _colour(label: int) -> str:
    return COLOURS[1 + int(label) % (len(COLOURS) - 1)]


def draw_changed(
    source: nn.Module, adapted: nn.Module, opened: Opened, spec: ModelSpec, title: str
) -> bytes:
    """A PNG of image, source's boxes, adapted boxes and, where there are labels, the truth."""
    split = opened.split
    truth = labels_in(split, spec.classes, unknown=True) if split.labels else None
    samples = [
        BoxSample(
            name=split.names[row],
            image=rgb(split.image(row, spec.input.window)),
            source=first,
            adapted=second,
            truth=BoxesOf(truth[row].boxes, truth[row].labels) if truth else None,
        )
        for row, first, second in changed_boxes(source, adapted, opened, spec)
    ]
    return box_panel(samples, spec.classes, title=title)


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
