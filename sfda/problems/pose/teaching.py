"""What a teacher of poses says of a batch, in the frame of the images: for every such method."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sfda.building_blocks.heatmaps import peaks, render
from sfda.building_blocks.norm import batch_statistics
from sfda.building_blocks.precision import exact
from sfda.building_blocks.warps import Pairs, features_back, inverted, maps_back, points_back
from sfda.problems._teaching import Taught, TeacherSettings
from sfda.problems.pose.loss import heatmap_consistency, surer_part
from sfda.problems.pose.network import PoseNet, PoseOutput
from sfda.types import Images, Losses, TargetBatch, Warp


class TeacherMaps(NamedTuple):
    """Heatmaps drawn anew where the teacher saw a joint, which of them count, its peaks' places in
    pixels of the map, their heights, and its pooled features.
    """

    maps: Float[Tensor, "B K h w"]
    mask: Bool[Tensor, "B K"]
    positions: Tensor
    peak: Float[Tensor, "B K"]
    features: Float[Tensor, "B D"]


def size_of(images: Images) -> tuple[int, int]:
    """(height, width) of a batch."""
    return images.shape[-2], images.shape[-1]


@torch.no_grad()
def teacher_maps(teacher: PoseNet, batch: TargetBatch, ratio: float) -> TeacherMaps:
    """The teacher's prediction on its own view, in float32, with that view's batch-norm statistics.

    Of the batch's joints the share `ratio` with the lowest peaks does not count (POST, L_c).
    """
    with exact(), batch_statistics(teacher, True):
        out: PoseOutput = teacher(batch.weak)
    maps = maps_back(out.heatmaps, batch.weak_warp, image=size_of(batch.weak), pairs=teacher.pairs)
    peak_at, peak = peaks(maps)
    drawn = render(peak_at, size=(maps.shape[-2], maps.shape[-1])).to(maps)
    pooled = features_back(out.features, batch.weak_warp).mean((2, 3))
    return TeacherMaps(drawn, surer_part(peak, ratio), peak_at, peak, pooled)


def student_maps(out: PoseOutput, batch: TargetBatch, pairs: Pairs) -> Float[Tensor, "B K h w"]:
    """The student's heatmaps in the frame of the images."""
    return maps_back(out.heatmaps, batch.strong_warp, image=size_of(batch.weak), pairs=pairs)


def teach(teacher: PoseNet, batch: TargetBatch, settings: TeacherSettings) -> Taught:
    """Heatmaps drawn anew where the teacher saw a joint, in the frame of the images."""
    assert batch.strong is not None
    return Taught(batch.strong, teacher_maps(teacher, batch, settings.ratio))


def learn(
    student: PoseNet, batch: TargetBatch, taught: Taught, settings: TeacherSettings
) -> Losses:
    """Consistency of the student's heatmaps with those."""
    maps = student_maps(student(taught.images), batch, student.pairs)
    return {"prediction": heatmap_consistency(maps, taught.targets.maps, taught.targets.mask)}


def occluded(
    images: Images,
    teacher: TeacherMaps,
    warp: Warp | None,
    *,
    rate: float,
    above: float,
    half: float,
) -> Images:
    """Images of the student's view with a patch of themselves over a joint that the teacher sees.

    With probability `rate` an image loses one of its joints whose peak is at least `above`: a
    square of half the side `half` (share of the image) around it is filled from elsewhere. The
    joint is moved into the view; POST's release warps the image there and back, and misses by up
    to 9 pixels.
    """
    height, width = size_of(images)
    reach = max(1, round(half * height))
    stride = images.new_tensor([width, height]) / images.new_tensor(
        [teacher.maps.shape[-1], teacher.maps.shape[-2]]
    )
    back = None if warp is None else Warp(inverted(warp.matrix), warp.flipped)
    points = points_back(teacher.positions * stride, back, (height, width)).round().long()
    covered = images.clone()
    for i in range(len(images)):
        sure = (teacher.peak[i] >= above).nonzero()[:, 0]
        if not len(sure) or float(torch.rand(())) >= rate:
            continue
        joint = sure[int(torch.randint(len(sure), ()))]
        x, y = points[i, joint].tolist()
        left, right = max(0, x - reach), min(width, x + reach)
        top, below = max(0, y - reach), min(height, y + reach)
        if left >= right or top >= below:
            continue
        row = int(torch.randint(height - (below - top) + 1, ()))
        column = int(torch.randint(width - (right - left) + 1, ()))
        covered[i, :, top:below, left:right] = images[
            i, :, row : row + below - top, column : column + right - left
        ]
    return covered
