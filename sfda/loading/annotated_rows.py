"""Rows that people have annotated, beside the batches of their target: active adaptation alone."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from sfda.augment.geometric import WarpMaker, targets_in_view
from sfda.augment.photometric import WEAK, ViewMaker
from sfda.building_blocks.boxes import Boxes
from sfda.building_blocks.heatmaps import PoseTargets
from sfda.building_blocks.warps import Pairs
from sfda.formats.masks import IGNORE, class_table
from sfda.images.preprocess import BatchRows, Stack, standardise
from sfda.images.store import Pictures
from sfda.loading.labels import framed_boxes, framed_poses, in_classes, in_joint_order
from sfda.loading.opened import Opened
from sfda.manifests.class_matching import class_map, joint_order
from sfda.problems.segmentation.labels import keep_masks
from sfda.refs import InputSpec, ModelSpec, Views
from sfda.state_folder import disk_errors
from sfda.types import UNKNOWN, UNSURE, Batches, Labelled, TargetBatch

log = logging.getLogger("sfda")
PASSES = 1_000_003  # passes over the annotated rows that one epoch may take


class AnnotatedRows:
    """Annotated rows as weak views: a view is a function of (seed, draw, row).

    `targets`: classes [L], masks, boxes in the network's frame, or joints in it, of which `pairs`
    are left and right.
    """

    def __init__(
        self,
        images: Pictures,
        rows: BatchRows,
        targets: BatchRows | Pictures | list[Boxes] | PoseTargets,
        spec: InputSpec,
        views: Views,
        *,
        seed: int,
        device: torch.device | str,
        pairs: Pairs = (),
    ) -> None:
        self.images, self.rows, self.targets, self.pairs = images, rows, targets, pairs
        self.spec, self.seed, self.device = spec, seed, torch.device(device)
        posed = isinstance(targets, PoseTargets)
        self.maker = (WarpMaker if posed else ViewMaker)(spec, views, seed=seed)

    def make(self, positions: BatchRows, draws: BatchRows) -> Labelled:
        """The annotated rows at these positions, each in the view of its draw."""
        rows, keys = self.rows[positions], self.rows[positions] + draws * len(self.images)
        weak, targets = self._views(self.images[rows], positions, keys)
        images = standardise(torch.from_numpy(np.array(weak)), self.spec, self.device)
        return Labelled(torch.from_numpy(rows).to(self.device), images, targets)

    def _views(self, stored: Any, positions: BatchRows, keys: BatchRows) -> tuple[Stack, Any]:
        """Views, and the targets moved as the images were."""
        targets, maker = self.targets, self.maker
        if isinstance(maker, WarpMaker):
            assert isinstance(targets, PoseTargets)
            view = maker.moved(np.asarray(stored), 0, keys, WEAK)
            own = PoseTargets(*(part[positions] for part in targets))
            poses = targets_in_view(own, view, self.spec.size, self.pairs)
            return view.views, PoseTargets(*(part.to(self.device) for part in poses))
        if isinstance(targets, list):
            weak, boxes = maker.weak_with_boxes(stored, [targets[p] for p in positions], 0, keys)
            return weak, [own.to(self.device) for own in boxes]
        if isinstance(targets, np.ndarray) and targets.ndim == 1:
            labels = torch.from_numpy(np.asarray(targets)[positions])
            return np.ascontiguousarray(maker.weak(stored, 0, keys)), labels.to(self.device)
        masks: Any = targets
        painted = [masks[int(position)] for position in positions]
        weak, moved = maker.weak_with_masks(stored, painted, 0, keys)
        labels = torch.from_numpy(moved).to(self.device).long()
        return weak, labels.masked_fill_(labels == IGNORE, UNSURE)


class BatchesWithAnnotated:
    """Batches of the target, each with a batch of annotated rows, which are gone through over and
    over in shuffled passes. A pass's remainder of one row is filled up with another.
    """

    def __init__(self, batches: Batches, annotated: AnnotatedRows, *, batch_size: int) -> None:
        self.batches, self.annotated, self.batch_size = batches, annotated, batch_size

    def steps(self, rows: Int[Tensor, " R"] | None = None) -> int:
        """Batches that one epoch over `rows` (None: all) takes."""
        return self.batches.steps(rows)

    def epoch(self, epoch: int, rows: Int[Tensor, " R"] | None = None) -> Iterator[TargetBatch]:
        """The batches of one epoch."""
        annotated = self._endless(epoch)
        for batch in self.batches.epoch(epoch, rows):
            yield replace(batch, labelled=next(annotated))

    def _endless(self, epoch: int) -> Iterator[Labelled]:
        count, size, draw = len(self.annotated.rows), self.batch_size, 0
        generator = np.random.default_rng([self.annotated.seed % 2**32, epoch, 1])
        while True:
            order = generator.permutation(count)
            for start in range(0, count, size):
                positions = order[start : start + size]
                draws = np.full(len(positions), epoch * PASSES + draw)
                if len(positions) == 1:  # batch norm cannot use a single image
                    positions = np.append(positions, order[0])
                    draws = np.append(draws, draws[0] + PASSES // 2)
                yield self.annotated.make(positions, draws)
            draw += 1


class AnnotatedBatches:
    """Batches of annotated rows drawn with replacement, `steps` an epoch; nothing else is seen."""

    def __init__(self, annotated: AnnotatedRows, *, batch_size: int, steps: int) -> None:
        self.annotated, self.batch_size, self.count = annotated, batch_size, steps

    def steps(self, rows: Int[Tensor, " R"] | None = None) -> int:
        """Batches of an epoch, whatever the rows."""
        return self.count

    def epoch(self, epoch: int, rows: Int[Tensor, " R"] | None = None) -> Iterator[TargetBatch]:
        """The batches of one epoch."""
        generator = np.random.default_rng([self.annotated.seed % 2**32, epoch, 2])
        for step in range(self.count):
            positions = generator.integers(len(self.annotated.rows), size=self.batch_size)
            first = (epoch * self.count + step) * self.batch_size
            batch = self.annotated.make(positions, first + np.arange(self.batch_size))
            yield TargetBatch(batch.index, batch.images, labelled=batch)


def with_annotated(
    batches: Batches, annotated: AnnotatedRows | None, method: Any, batch_size: int
) -> Batches:
    """What a method learns from: its target, with annotated rows where there are some."""
    if annotated is None:
        return batches
    if method.labelled_steps:
        return AnnotatedBatches(annotated, batch_size=batch_size, steps=method.labelled_steps)
    return BatchesWithAnnotated(batches, annotated, batch_size=batch_size)


def annotated_rows(
    opened: Opened, spec: ModelSpec, views: Views, folder: Path, *, seed: int, device: torch.device
) -> AnnotatedRows | None:
    """The annotated rows of a split in the model's classes; None where there are none.

    Masks are kept in `folder`. Rows of a class that the model lacks are left out, and said to be;
    so are boxes of such a class. Raises BadInput where no class is shared, or joints differ.
    """
    annotations, split = opened.split.annotations, opened.split
    if annotations is None:
        return None
    make = partial(
        AnnotatedRows, opened.images, spec=spec.input, views=views, seed=seed, device=device
    )
    rows = annotations.rows
    if annotations.persons is not None:
        order = joint_order(annotations.classes, spec.classes, split.manifest)
        persons = (in_joint_order(person, order) for person in annotations.persons)
        poses = framed_poses(zip(rows.tolist(), persons, strict=True), split, spec.input)
        return make(rows, poses, pairs=spec.joint_pairs)
    index_of = class_map(annotations.classes, spec.classes, split.manifest)
    if annotations.masks is not None:
        table = class_table(index_of)
        with disk_errors(f"masks below {folder}"):
            masks = keep_masks(annotations.masks, len(rows), spec.input, folder, table=table)
        return make(rows, masks)
    if annotations.boxes is not None:
        own, foreign = in_classes(annotations.boxes, index_of)
        if foreign:
            log.warning("%d annotated boxes are of classes that the model lacks", foreign)
        boxes = framed_boxes(zip(rows.tolist(), own, strict=True), split, spec.input)
        return make(rows, boxes)
    assert annotations.labels is not None
    labels = index_of[annotations.labels]
    known = labels != UNKNOWN
    if not known.all():
        log.warning(
            "%d annotated rows are of classes that the model lacks and are not learnt from",
            int((~known).sum()),
        )
    if not known.any():
        return None
    return make(rows[known], labels[known])
