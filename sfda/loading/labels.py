"""The labels of a split in the classes of a model, and in the frame of its network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch

from sfda.building_blocks.boxes import Boxes, BoxLabels
from sfda.building_blocks.heatmaps import PoseTargets
from sfda.errors import BadInput, listed
from sfda.formats.coco import BoxTable
from sfda.formats.keypoints import CropReader, Person
from sfda.formats.masks import Mask, class_table
from sfda.images.crops import to_crop_frame
from sfda.inference.detection import boxes_to_frame
from sfda.loading.opened import open_ref
from sfda.manifests.class_matching import ClassIndices, class_map, class_shift, joint_order
from sfda.manifests.rows import Split, read_split
from sfda.refs import InputSpec, ManifestRef
from sfda.types import UNKNOWN


def labels_for(split: Split, model: tuple[str, ...], *, unknown: bool = False) -> ClassIndices:
    """The split's labels in the order of the model's classes; foreign classes as UNKNOWN.

    Raises BadInput where there are none or names do not fit, and, unless `unknown` samples have a
    meaning here, where a sample's class is foreign to the model.
    """
    if split.labels is None:
        raise BadInput(f"{split.manifest} has no labels in '{split.name}', and this needs some")
    labels: ClassIndices = class_map(split.classes, model, split.manifest)[split.labels]
    if not unknown and (labels == UNKNOWN).any():
        shift = class_shift(split.classes, model, split.manifest)
        raise BadInput(
            f"{split.manifest} has samples of classes that the model lacks, and learning from "
            f"labels needs them: {listed(shift.extra)}; the model has {listed(model)}"
        )
    return labels


def mask_table(split: Split, model: tuple[str, ...]) -> Mask:
    """[256]: for every value of the masks the class of the model, or 255 where it does not count.

    Pixels of classes that the model lacks do not count. Raises BadInput where there are no masks,
    or names do not fit.
    """
    if split.masks is None:
        raise BadInput(f"{split.manifest} has no masks in '{split.name}', and this needs some")
    return class_table(class_map(split.classes, model, split.manifest))


def boxes_for(split: Split, model: tuple[str, ...], *, unknown: bool = False) -> BoxTable:
    """The split's boxes in the model's classes, those of classes that it lacks left out.

    Raises BadInput where there are none or names do not fit, and, unless `unknown` classes may be
    left out here, where a box's class is foreign to the model.
    """
    if split.boxes is None:
        raise BadInput(f"{split.manifest} has no boxes in '{split.name}', and this needs some")
    rows, foreign = in_classes(split.boxes, class_map(split.classes, model, split.manifest))
    if foreign and not unknown:
        shift = class_shift(split.classes, model, split.manifest)
        raise BadInput(
            f"{split.manifest} has boxes of classes that the model lacks, and learning from "
            f"them needs those: {listed(shift.extra)}; the model has {listed(model)}"
        )
    return BoxTable(rows, split.boxes.notes)


def in_classes(table: BoxTable, index_of: ClassIndices) -> tuple[tuple[BoxLabels, ...], int]:
    """The boxes in the model's classes, `index_of` [C], and how many were left out as foreign."""
    rows, foreign = [], 0
    for row in table.rows:
        labels = index_of[row.labels]
        known = labels != UNKNOWN
        foreign += int((~known).sum())
        rows.append(BoxLabels(row.boxes[known], labels[known], row.crowd[known]))
    return tuple(rows), foreign


def persons_for(split: Split, joints: tuple[str, ...]) -> tuple[Person, ...]:
    """The split's persons, their joints in the order of the model's.

    Raises BadInput where there are none, or where the joints are not the model's.
    """
    if split.persons is None:
        raise BadInput(f"{split.manifest} has no joints in '{split.name}', and this needs some")
    own = split.classes if isinstance(split.classes, tuple) else ()
    order = joint_order(own, joints, split.manifest)
    return tuple(in_joint_order(person, order) for person in split.persons)


def in_joint_order(person: Person, order: list[int]) -> Person:
    """The person with the joints in another order."""
    return person._replace(joints=person.joints[order], visible=person.visible[order])


def crops_of(split: Split) -> CropReader:
    """Where the persons of a split lie in their images."""
    assert isinstance(split.reader, CropReader)
    return split.reader


class ImageSizes(Sequence[tuple[int, int]]):
    """(height, width) in pixels of each image as it came: what masks and boxes are predicted in."""

    def __init__(self, split: Split) -> None:
        self.split = split

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, row: Any) -> Any:
        return self.split.reader.size(row)


def check_learnable(ref: ManifestRef, split: str, classes: tuple[str, ...]) -> None:
    """Raise BadInput unless every row of the split has a label, of one of these classes."""
    manifest = open_ref(ref)
    learn: dict[str, Callable[..., Any]] = {
        "segmentation": mask_table,
        "detection": boxes_for,
        "pose": persons_for,
    }
    learn.get(manifest.problem, labels_for)(read_split(manifest, split), classes)


def framed_boxes(
    rows: Iterable[tuple[int, BoxLabels]], split: Split, spec: InputSpec
) -> list[Boxes]:
    """The boxes of these rows of a split."""
    sizes = ImageSizes(split)
    return [boxes_to_frame(boxes, sizes[row], spec) for row, boxes in rows]


def framed_poses(rows: Iterable[tuple[int, Person]], split: Split, spec: InputSpec) -> PoseTargets:
    """The joints of these rows of a split."""
    crops, persons = crops_of(split), list(rows)
    joints = [to_crop_frame(person.joints, crops.crop(row), spec.size) for row, person in persons]
    return PoseTargets(
        torch.from_numpy(np.stack(joints)).float(),
        torch.from_numpy(np.stack([person.visible for _, person in persons])).float(),
    )
