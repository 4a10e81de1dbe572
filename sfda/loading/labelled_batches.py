"""A labelled split in shuffled batches, each with its labels: supervised training."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from sfda.augment.geometric import WarpMaker
from sfda.augment.photometric import ViewMaker
from sfda.building_blocks.boxes import Boxes
from sfda.building_blocks.heatmaps import PoseTargets
from sfda.building_blocks.warps import Pairs
from sfda.errors import BadInput
from sfda.formats.masks import IGNORE
from sfda.images.preprocess import standardise
from sfda.images.store import Pictures
from sfda.loading.batch_making import BatchPlan, BatchSource
from sfda.loading.batches import TargetLoader
from sfda.loading.labels import (
    boxes_for,
    framed_boxes,
    framed_poses,
    labels_for,
    mask_table,
    persons_for,
)
from sfda.loading.opened import Opened
from sfda.problems.segmentation.labels import keep_masks
from sfda.refs import InputSpec, ModelSpec, Views
from sfda.state_folder import disk_errors, home
from sfda.types import UNSURE, Batches, Labelled, TargetBatch


class BatchesWithClasses:
    """Batches of a set, each with its labels: `targets` [N] by row."""

    def __init__(self, batches: Batches, targets: Int[Tensor, " N"]) -> None:
        self.batches, self.targets = batches, targets

    def steps(self, rows: Int[Tensor, " R"] | None = None) -> int:
        """Batches an epoch takes."""
        return self.batches.steps(rows)

    def epoch(self, epoch: int, rows: Int[Tensor, " R"] | None = None) -> Iterator[TargetBatch]:
        """Batches of one epoch."""
        for batch in self.batches.epoch(epoch, rows):
            targets = self.targets.to(batch.index.device)[batch.index]
            yield replace(batch, labelled=Labelled(batch.index, batch.weak, targets))


def labelled_batches(
    opened: Opened,
    spec: ModelSpec,
    batch_size: int,
    *,
    seed: int,
    device: torch.device,
    workers: int = 0,
) -> Batches:
    """A split in shuffled batches, each with its labels. Raises BadInput where some lack."""
    how: dict[str, Any] = {
        "batch_size": batch_size,
        "seed": seed,
        "device": device,
        "workers": workers,
    }
    if spec.problem == "segmentation":
        return LabelledLoader(opened.images, _masks(opened, spec), spec.input, spec.views, **how)
    if spec.problem == "detection":
        table = boxes_for(opened.split, spec.classes)
        boxes = framed_boxes(enumerate(table.rows), opened.split, spec.input)
        return LabelledLoader(opened.images, boxes, spec.input, spec.views, **how)
    if spec.problem == "pose":
        persons = persons_for(opened.split, spec.classes)
        poses = framed_poses(enumerate(persons), opened.split, spec.input)
        return LabelledLoader(
            opened.images, poses, spec.input, spec.views, pairs=spec.joint_pairs, **how
        )
    labels = torch.from_numpy(labels_for(opened.split, spec.classes))
    loader = TargetLoader(opened.images, spec.input, spec.views, strong=False, **how)
    return BatchesWithClasses(loader, labels.to(device))


def _masks(opened: Opened, spec: ModelSpec) -> Pictures:
    """The split's masks in the model's classes, prepared as its images are and kept beside them."""
    table = mask_table(opened.split, spec.classes)
    assert opened.split.masks is not None
    folder = home() / "decoded"
    with disk_errors(f"masks below {folder}"):
        return keep_masks(opened.split.masks, len(opened.images), spec.input, folder, table=table)


class LabelledLoader:
    """Images with masks, or boxes, in shuffled batches, each in `TargetBatch.labelled`: for
    training on labels alone. Pixels that do not count are unsure; boxes and joints are in the
    network's frame; `pairs` of joints are left and right. A pure function of seed and epoch.
    """

    def __init__(
        self,
        images: Pictures,
        labels: Pictures | list[Boxes] | PoseTargets,
        spec: InputSpec,
        views: Views,
        *,
        batch_size: int,
        seed: int,
        device: torch.device | str,
        workers: int = 0,
        pairs: Pairs = (),
    ) -> None:
        boxed, posed = isinstance(labels, list), isinstance(labels, PoseTargets)
        count = len(labels.joints) if isinstance(labels, PoseTargets) else len(labels)
        if count != len(images):
            what = "lists of boxes" if boxed else "poses" if posed else "masks"
            raise BadInput(f"{len(images)} images but {count} {what}")
        self._spec = spec
        self._device = torch.device(device)
        self._plan = BatchPlan(
            len(images),
            batch_size=batch_size,
            seed=seed,
            drop_last=False,
            smallest=1 if boxed else 2,
        )
        self._source = BatchSource(
            images,
            (WarpMaker if posed else ViewMaker)(spec, views, seed=seed),
            self._device,
            masks=None if isinstance(labels, list | PoseTargets) else labels,
            boxes=labels if isinstance(labels, list) else None,
            poses=labels if isinstance(labels, PoseTargets) else None,
            pairs=pairs,
            workers=workers,
        )

    def steps(self, rows: Int[Tensor, " R"] | None = None) -> int:
        """Batches that one epoch over `rows` (None: all) takes."""
        return self._plan.steps(None if rows is None else len(rows))

    def epoch(self, epoch: int, rows: Int[Tensor, " R"] | None = None) -> Iterator[TargetBatch]:
        """The batches of one epoch."""
        for made in self._source.batches(self._plan.jobs(epoch, rows)):
            index = made.rows.to(self._device, non_blocking=True)
            weak = standardise(made.weak, self._spec, self._device)
            if made.boxes is not None:
                boxes = [own.to(self._device) for own in made.boxes]
                yield TargetBatch(index, weak, labelled=Labelled(index, weak, boxes))
                continue
            if made.poses is not None:
                poses = PoseTargets(*(part.to(self._device) for part in made.poses))
                yield TargetBatch(index, weak, labelled=Labelled(index, weak, poses))
                continue
            assert made.masks is not None
            masks = made.masks.to(self._device, non_blocking=True).long()
            masks = masks.masked_fill_(masks == IGNORE, UNSURE)
            yield TargetBatch(index, weak, labelled=Labelled(index, weak, masks))
