"""The panel of a segmentation, as PNG bytes: images, what both models answer, and the truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import UInt8
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from sfda.pictures import png

LARGEST = 480  # pixels of a side that are drawn
# Glasbey-like: 20 colours that are told apart, the first for what is mostly background
COLOURS = (
    "#4a4a4a", "#e6194b", "#3cb44b", "#4363d8", "#ffe119", "#f58231", "#911eb4", "#46f0f0",
    "#f032e6", "#bcf60c", "#fabebe", "#008080", "#e6beff", "#9a6324", "#fffac8", "#800000",
    "#aaffc3", "#808000", "#ffd8b1", "#000075",
)  # fmt: skip
IGNORED = (200, 200, 200)
LEGEND = 24  # classes that are named

Mask = UInt8[np.ndarray, "H W"]


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
        return float((self.source != self.adapted).mean())


def panel(samples: Sequence[Sample], classes: Sequence[str], *, title: str) -> bytes:
    """One row a sample: image, source, adapted, and the truth where any sample has one."""
    columns = 3 + any(sample.truth is not None for sample in samples)
    height, width = samples[0].image.shape[:2]
    tall = min(2.0, max(0.4, height / width)) * 3.6 + 0.35
    figure = Figure(figsize=(3.6 * columns, tall * len(samples) + 1.2), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=12)
    grid = figure.subplots(len(samples), columns, squeeze=False)
    for row, sample in zip(grid, samples, strict=True):
        _row(row, sample)
    shown = _shown(samples, len(classes))
    named = [Patch(color=_colour(c), label=classes[c]) for c in shown[:LEGEND]]
    if any(s.truth is not None and (s.truth == 255).any() for s in samples):
        named.append(Patch(color="#c8c8c8", label="does not count"))
    figure.legend(handles=named, loc="outside lower center", ncols=min(len(named), 6), fontsize=9)
    return png(figure)


def _row(axes: Sequence[Axes], sample: Sample) -> None:
    shown = [("image", small(sample.image))]
    masks = (("source", sample.source), ("adapted", sample.adapted), ("truth", sample.truth))
    shown += [(name, coloured(small(mask))) for name, mask in masks if mask is not None]
    for place, (name, picture) in zip(axes, shown, strict=False):
        place.imshow(picture, interpolation="nearest")
        text = f"{name}, {sample.changed:.0%} changed" if name == "adapted" else name
        place.set_title(_short(sample.name) if name == "image" else text, fontsize=9)
    for place in axes:
        place.set_axis_off()


def coloured(mask: Mask) -> UInt8[np.ndarray, "H W 3"]:
    """A mask in the classes' colours; what does not count is light grey."""
    table = np.full((256, 3), IGNORED, np.uint8)
    for c in range(255):
        hexed = _colour(c)
        table[c] = [int(hexed[i : i + 2], 16) for i in (1, 3, 5)]
    found: UInt8[np.ndarray, "H W 3"] = table[mask]
    return found


def small(image: np.ndarray) -> np.ndarray:
    """An image or a mask of at most 480 pixels a side; masks keep their values."""
    height, width = image.shape[:2]
    ratio = LARGEST / max(height, width)
    if ratio >= 1:
        return image
    size = (max(1, round(width * ratio)), max(1, round(height * ratio)))
    how = cv2.INTER_NEAREST if image.ndim == 2 else cv2.INTER_AREA
    return cv2.resize(image, size, interpolation=how)


def _colour(c: int) -> str:
    return COLOURS[c % len(COLOURS)]


def _shown(samples: Sequence[Sample], classes: int) -> list[int]:
    masks = [m for s in samples for m in (s.source, s.adapted, s.truth) if m is not None]
    seen = np.zeros(256, bool)
    for mask in masks:
        seen |= np.bincount(mask.ravel(), minlength=256) > 0
    return [int(c) for c in np.flatnonzero(seen[:classes])]


def _short(name: str, most: int = 34) -> str:
    return name if len(name) <= most else "…" + name[-most + 1 :]
