"""The panel of poses, as PNG bytes: persons with the joints of both models, and the truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from matplotlib.axes import Axes

from sfda.problems.panel_frame import COLOURS, ending, png, sheet, small

Edges = Sequence[tuple[int, int]]


@dataclass(frozen=True)
class PoseSample:
    """One person's crop, joints [K, 2] of both models in its pixels, and the true ones (NaN where
    a joint is not labelled).
    """

    name: str
    image: UInt8[np.ndarray, "H W 3"]
    source: np.ndarray
    adapted: np.ndarray
    truth: np.ndarray | None = None

    @property
    def moved(self) -> float:
        """Mean distance of the two models' joints, as a share of the crop's side."""
        return float(np.linalg.norm(self.source - self.adapted, axis=1).mean() / len(self.image))


def pose_panel(samples: Sequence[PoseSample], edges: Edges, *, title: str) -> bytes:
    """One row a person: image, source, adapted, and the truth where any has one."""
    columns = 3 + any(sample.truth is not None for sample in samples)
    size = (3.2 * columns, 3.4 * len(samples) + 0.5)
    figure, grid = sheet(len(samples), columns, size=size, title=title)
    for row, sample in zip(grid, samples, strict=True):
        _row(row, sample, edges)
    return png(figure)


def _row(axes: Sequence[Axes], sample: PoseSample, edges: Edges) -> None:
    picture = small(sample.image)
    ratio = picture.shape[1] / sample.image.shape[1]
    parts: list[tuple[str, np.ndarray | None]] = [
        (ending(sample.name), None),
        ("source", sample.source),
        (f"adapted, moved by {sample.moved:.1%}", sample.adapted),
    ]
    if sample.truth is not None:
        parts.append(("truth", sample.truth))
    for axis, (name, joints) in zip(axes, parts, strict=False):
        axis.imshow(picture)
        axis.set_title(name, fontsize=9)
        if joints is not None:
            _draw(axis, (joints + 0.5) * ratio - 0.5, edges)
        axis.set_xlim(-0.5, picture.shape[1] - 0.5)
        axis.set_ylim(picture.shape[0] - 0.5, -0.5)
    for axis in axes:
        axis.set_axis_off()


def _draw(axis: Axes, joints: np.ndarray, edges: Edges) -> None:
    for a, b in edges:
        axis.plot(*joints[[a, b]].T, color="#ffffff", lw=2.4, alpha=0.6)
        axis.plot(*joints[[a, b]].T, color="#1f77b4", lw=1.4)
    colours = [COLOURS[1 + i % (len(COLOURS) - 1)] for i in range(len(joints))]
    axis.scatter(
        joints[:, 0], joints[:, 1], c=colours, s=22, edgecolors="white", linewidths=0.7, zorder=3
    )
