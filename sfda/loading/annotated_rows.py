"""Rows that people have annotated, beside the batches of their target: active adaptation alone."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from sfda.augment.geometric import WarpMaker
from sfda.augment.photometric import ViewMaker
from sfda.images.preprocess import BatchRows, standardise
from sfda.images.store import Pictures
from sfda.manifests.rows import Split
from sfda.problems._labels import AnyTargets
from sfda.problems.registry import PROBLEMS
from sfda.refs import InputSpec, ModelSpec, Views
from sfda.types import Batches, Labelled, TargetBatch

log = logging.getLogger("sfda")
PASSES = 1_000_003  # passes over the annotated rows that one epoch may take


class AnnotatedRows:
    """Annotated rows as weak views by `maker`: a view is a function of (seed, draw, row)."""

    def __init__(
        self,
        images: Pictures,
        rows: BatchRows,
        targets: AnyTargets,
        spec: InputSpec,
        maker: ViewMaker | WarpMaker,
        *,
        seed: int,
        device: torch.device | str,
    ) -> None:
        self.images, self.rows, self.targets, self.maker = images, rows, targets, maker
        self.spec, self.seed, self.device = spec, seed, torch.device(device)

    def make(self, positions: BatchRows, draws: BatchRows) -> Labelled:
        """The annotated rows at these positions, each in the view of its draw."""
        rows, keys = self.rows[positions], self.rows[positions] + draws * len(self.images)
        weak, moved = self.targets.views(self.maker, self.images[rows], positions, 0, keys)
        images = standardise(torch.from_numpy(np.array(weak)), self.spec, self.device)
        targets = self.targets.to_device(moved, self.device)
        return Labelled(torch.from_numpy(rows).to(self.device), images, targets)


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


class LearnsLabelled(Protocol):
    """A method that may learn from annotated rows alone."""

    @property
    def labelled_steps(self) -> int:
        """Batches of them an epoch; 0: they come beside the target's."""
        ...


def with_annotated(
    batches: Batches, annotated: AnnotatedRows | None, method: LearnsLabelled, batch_size: int
) -> Batches:
    """What a method learns from: its target, with annotated rows where there are some."""
    if annotated is None:
        return batches
    if method.labelled_steps:
        return AnnotatedBatches(annotated, batch_size=batch_size, steps=method.labelled_steps)
    return BatchesWithAnnotated(batches, annotated, batch_size=batch_size)


class FramedRows(NamedTuple):
    """Annotated rows of a target, and what people said of each, in the frame of a network."""

    rows: BatchRows
    targets: AnyTargets


def framed_rows(split: Split, spec: ModelSpec, folder: Path) -> FramedRows | None:
    """The annotated rows of a split in the model's classes; None where there are none.

    Files are kept in `folder`. Rows of a class that the model lacks are left out, and said to be;
    so are boxes of such a class. Raises BadInput where no class is shared, or joints differ.
    """
    annotations = split.annotations
    if annotations is None:
        return None
    labels = annotations.labels.in_classes(
        annotations.classes, spec.classes, split.manifest, unknown=True
    )
    if text := labels.left_out():
        log.warning("%s", text)
    known = np.flatnonzero(labels.known)
    if not len(known):
        return None
    rows = annotations.rows[known]
    return FramedRows(rows, labels.take(known).framed(split.reader, rows.tolist(), spec, folder))


def annotated_rows(
    framed: FramedRows,
    images: Pictures,
    spec: ModelSpec,
    views: Views,
    *,
    seed: int,
    device: torch.device,
) -> AnnotatedRows:
    """Annotated rows of a target whose images these are, to be learnt from."""
    maker = PROBLEMS[spec.problem].view_maker(spec.input, views, seed=seed)
    return AnnotatedRows(images, *framed, spec.input, maker, seed=seed, device=device)
