"""What people marked in images, where it lies in the frame of a network."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch

from sfda.building_blocks.boxes import Boxes, BoxLabels
from sfda.building_blocks.heatmaps import PoseTargets
from sfda.formats.keypoints import Person
from sfda.images.crops import to_frame as to_crop
from sfda.inference.detection import to_frame
from sfda.loading.opened import AnswerSizes, crops_of
from sfda.manifests.rows import Split
from sfda.refs import InputSpec


def framed_boxes(
    rows: Iterable[tuple[int, BoxLabels]], split: Split, spec: InputSpec
) -> list[Boxes]:
    """The boxes of these rows of a split."""
    sizes = AnswerSizes(split)
    return [to_frame(found, sizes[row], spec) for row, found in rows]


def framed_poses(rows: Iterable[tuple[int, Person]], split: Split, spec: InputSpec) -> PoseTargets:
    """The joints of these rows of a split."""
    crops, given = crops_of(split), list(rows)
    placed = [to_crop(person.joints, crops.crop(row), spec.size) for row, person in given]
    return PoseTargets(
        torch.from_numpy(np.stack(placed)).float(),
        torch.from_numpy(np.stack([person.visible for _, person in given])).float(),
    )
