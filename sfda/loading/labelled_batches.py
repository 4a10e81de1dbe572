"""Batches of the target with labelled rows beside them: active adaptation alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
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
from sfda.formats.masks import IGNORE
from sfda.images.preprocess import Rows, Stack, standardise
from sfda.images.store import Pictures
from sfda.refs import InputSpec, Views
from sfda.types import UNSURE, Batches, Labelled, TargetBatch

ROUNDS = 1_000_003  # passes over the labelled rows that one epoch may take


class LabelledRows:
    """Rows with answers as weak views: a view is a function of (seed, draw, row).

    `targets`: classes [L], masks, boxes in the network's frame, or joints in it, of which `pairs`
    are left and right.
    """

    def __init__(
        self,
        images: Pictures,
        rows: Rows,
        targets: Rows | Pictures | list[Boxes] | PoseTargets,
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

    def make(self, places: Rows, draws: Rows) -> Labelled:
        """The labelled rows at these places, each in the view of its draw."""
        rows, keys = self.rows[places], self.rows[places] + draws * len(self.images)
        weak, found = self._seen(self.images[rows], places, keys)
        images = standardise(torch.from_numpy(np.array(weak)), self.spec, self.device)
        return Labelled(torch.from_numpy(rows).to(self.device), images, found)

    def _seen(self, stored: Any, places: Rows, keys: Rows) -> tuple[Stack, Any]:
        """Views, and the answers moved as the images were."""
        targets, maker = self.targets, self.maker
        if isinstance(maker, WarpMaker):
            assert isinstance(targets, PoseTargets)
            view = maker.moved(np.asarray(stored), 0, keys, WEAK)
            own = PoseTargets(*(part[places] for part in targets))
            placed = targets_in_view(own, view, self.spec.size, self.pairs)
            return view.views, PoseTargets(*(part.to(self.device) for part in placed))
        if isinstance(targets, list):
            weak, boxes = maker.weak_with_boxes(stored, [targets[p] for p in places], 0, keys)
            return weak, [found.to(self.device) for found in boxes]
        if isinstance(targets, np.ndarray) and targets.ndim == 1:
            given = torch.from_numpy(np.asarray(targets)[places])
            return np.ascontiguousarray(maker.weak(stored, 0, keys)), given.to(self.device)
        masks: Any = targets
        painted = [masks[int(place)] for place in places]
        weak, moved = maker.weak_with_masks(stored, painted, 0, keys)
        there = torch.from_numpy(moved).to(self.device).long()
        return weak, there.masked_fill_(there == IGNORE, UNSURE)


class WithLabels:
    """Batches of the target, each with a batch of labelled rows, which are gone through over and
    over in shuffled passes. A pass's remainder of one row is filled up with another.
    """

    def __init__(self, batches: Batches, labelled: LabelledRows, *, batch_size: int) -> None:
        self.batches, self.labelled, self.batch_size = batches, labelled, batch_size

    def steps(self, rows: Int[Tensor, " R"] | None = None) -> int:
        """Batches that one epoch over `rows` (None: all) takes."""
        return self.batches.steps(rows)

    def epoch(self, epoch: int, rows: Int[Tensor, " R"] | None = None) -> Iterator[TargetBatch]:
        """The batches of one epoch."""
        given = self._endless(epoch)
        for batch in self.batches.epoch(epoch, rows):
            yield replace(batch, labelled=next(given))

    def _endless(self, epoch: int) -> Iterator[Labelled]:
        count, size, draw = len(self.labelled.rows), self.batch_size, 0
        generator = np.random.default_rng([self.labelled.seed % 2**32, epoch, 1])
        while True:
            order = generator.permutation(count)
            for start in range(0, count, size):
                places = order[start : start + size]
                draws = np.full(len(places), epoch * ROUNDS + draw)
                if len(places) == 1:  # batch norm cannot use a single image
                    places = np.append(places, order[0])
                    draws = np.append(draws, draws[0] + ROUNDS // 2)
                yield self.labelled.make(places, draws)
            draw += 1


class LabelsAlone:
    """Batches of labelled rows drawn with replacement, `steps` an epoch; nothing else is seen."""

    def __init__(self, labelled: LabelledRows, *, batch_size: int, steps: int) -> None:
        self.labelled, self.batch_size, self.count = labelled, batch_size, steps

    def steps(self, rows: Int[Tensor, " R"] | None = None) -> int:
        """Batches of an epoch, whatever the rows."""
        return self.count

    def epoch(self, epoch: int, rows: Int[Tensor, " R"] | None = None) -> Iterator[TargetBatch]:
        """The batches of one epoch."""
        generator = np.random.default_rng([self.labelled.seed % 2**32, epoch, 2])
        for step in range(self.count):
            places = generator.integers(len(self.labelled.rows), size=self.batch_size)
            first = (epoch * self.count + step) * self.batch_size
            given = self.labelled.make(places, first + np.arange(self.batch_size))
            yield TargetBatch(given.index, given.images, labelled=given)


def beside(
    batches: Batches, labelled: LabelledRows | None, method: Any, batch_size: int
) -> Batches:
    """What a method learns from: its target, with labelled rows where there are some."""
    if labelled is None:
        return batches
    if method.alone:
        return LabelsAlone(labelled, batch_size=batch_size, steps=method.alone)
    return WithLabels(batches, labelled, batch_size=batch_size)


class LabelledBatches:
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
