"""The panel of poses, as PNG bytes: persons with the joints of both models, and the truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from torch import nn

from sfda.formats.keypoints import Person
from sfda.images.plotting import Axes, Patch
from sfda.loading.labels import labels_in
from sfda.loading.opened import Opened
from sfda.problems.changed_images import most_changed, rgb, sampled_rows
from sfda.problems.panel_frame import (
    COLOURS,
    LEGEND,
    ending,
    label_point,
    png,
    sheet,
    shortened,
    small,
)
from sfda.problems.pose.inference import pose_all
from sfda.problems.pose.labels import crops_of
from sfda.refs import ModelSpec, Skeleton

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
        return mean_distance(self.source, self.adapted) / len(self.image)


def mean_distance(one: np.ndarray, other: np.ndarray) -> float:
    """Mean Euclidean distance of two sets of joints [K, 2]."""
    return float(np.linalg.norm(one - other, axis=1).mean())


def pose_panel(
    samples: Sequence[PoseSample], joints: Sequence[str], edges: Edges, *, title: str
) -> bytes:
    """One row a person: image, source, adapted, and the truth where any has one. Joints have the
    numbers by which the legend names them.
    """
    columns = 3 + any(sample.truth is not None for sample in samples)
    patches = _legend(joints)
    longest = max(len(str(patch.get_label())) for patch in patches)
    across = max(1, min(len(patches), int(3.2 * columns / (0.75 + 0.075 * longest))))
    size = (3.2 * columns, 3.4 * len(samples) + 0.65 + 0.21 * -(-len(patches) // across))
    figure, grid = sheet(len(samples), columns, size=size, title=title)
    for row, sample in zip(grid, samples, strict=True):
        _row(row, sample, edges)
    figure.legend(handles=patches, loc="outside lower center", ncols=across, fontsize=9)
    return png(figure)


def _legend(joints: Sequence[str]) -> list[Patch]:
    """Number, name and colour of each joint."""
    patches = [
        Patch(color=_colour(number), label=f"{number + 1} {shortened(name)}")
        for number, name in enumerate(joints[:LEGEND])
    ]
    if len(joints) > LEGEND:
        patches.append(Patch(alpha=0, label=f"and {len(joints) - LEGEND} more joints"))
    return patches


def _colour(joint: int) -> str:
    return COLOURS[1 + joint % (len(COLOURS) - 1)]


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


def _draw(axis: Axes, joints: np.ndarray, edges: Edges) -> None:
    gap = np.full(2, np.nan)  # between the edges, which are one line
    limbs = np.array([point for a, b in edges for point in (joints[a], joints[b], gap)])
    if edges:
        axis.plot(*limbs.T, color="#ffffff", lw=2.4, alpha=0.6)
        axis.plot(*limbs.T, color="#1f77b4", lw=1.4)
    colours = [_colour(i) for i in range(len(joints))]
    axis.scatter(
        joints[:, 0], joints[:, 1], c=colours, s=22, edgecolors="white", linewidths=0.7, zorder=3
    )
    for number, (x, y) in enumerate(joints.tolist()):
        if x == x and y == y:  # NaN where a joint is not labelled
            label_point(axis, (x, y), str(number + 1), _colour(number))


def draw_changed(
    source: nn.Module, adapted: nn.Module, opened: Opened, spec: ModelSpec, title: str
) -> bytes:
    """A PNG of crops with source's joints, adapted joints and, where there are labels, the truth.

    At most 64 persons are compared.
    """
    split, device = opened.split, next(source.parameters()).device
    crops = crops_of(split)
    persons = labels_in(split, spec.classes) if split.labels else None
    rows = sampled_rows(len(opened.images))
    stored = np.stack([opened.images[row] for row in rows])
    row_crops = [crops.crop(row) for row in rows]
    poses = []
    for network in (source, adapted):
        every = pose_all(network, stored, spec.input, row_crops, device=device)
        poses.append([pose for _, pose in every])
    chosen = most_changed(
        (mean_distance(one.joints, other.joints) / crop.side, (row, crop, one, other))
        for row, crop, one, other in zip(rows, row_crops, *poses, strict=True)
    )
    samples = []
    for row, crop, one, other in chosen:
        corner = np.array([crop.left, crop.top])
        samples.append(
            PoseSample(
                name=split.names[row],
                image=rgb(split.image(row, spec.input.window)),
                source=one.joints - corner,
                adapted=other.joints - corner,
                truth=None if persons is None else labelled_joints(persons[row]) - corner,
            )
        )
    skeleton = spec.skeleton or Skeleton()
    edges = skeleton.index_pairs(skeleton.edges, spec.classes)
    return pose_panel(samples, spec.classes, edges, title=title)


def labelled_joints(person: Person) -> np.ndarray:
    """The joints that are labelled; the others as NaN, which nothing is drawn of."""
    return np.where(person.visible[:, None] > 0, person.joints, np.nan)
