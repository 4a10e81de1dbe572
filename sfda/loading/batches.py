"""The unlabelled target in shuffled batches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch
from jaxtyping import Int
from torch import Tensor

from sfda.augment.geometric import WarpMaker
from sfda.augment.photometric import ViewMaker
from sfda.images.preprocess import standardise
from sfda.images.store import Pictures
from sfda.loading.batch_making import BatchPlan, BatchSource
from sfda.refs import InputSpec, Views
from sfda.settings import Schedule
from sfda.types import Batches, TargetBatch, Warp

ALL = slice(None)


class SlicedBatches(Batches, Protocol):
    """Batches of which those of a part of an epoch can be had, without making the others."""

    def epoch(
        self, epoch: int, rows: Int[Tensor, " R"] | None = None, *, only: slice = ALL
    ) -> Iterator[TargetBatch]:
        """The batches of one epoch, or `only` some."""
        ...


class EqualEpochs:
    """Batches in epochs of so many steps, whatever the number of images: pass after pass over the
    target, of which an epoch takes several, or a part.
    """

    def __init__(self, batches: SlicedBatches, schedule: Schedule) -> None:
        self._batches, self._schedule = batches, schedule

    def steps(self, rows: Int[Tensor, " R"] | None = None) -> int:
        """Batches of an epoch over `rows` (None: all); 0 where there are too few for one."""
        a_pass = self._batches.steps(rows)
        return a_pass and self._schedule.epoch_steps(a_pass)

    def epoch(self, epoch: int, rows: Int[Tensor, " R"] | None = None) -> Iterator[TargetBatch]:
        """The batches of one epoch: a pass that the one before has begun is gone on with."""
        a_pass, steps = self._batches.steps(rows), self.steps(rows)
        at, end = epoch * steps, (epoch + 1) * steps
        while at < end:
            number, begun = divmod(at, a_pass)
            until = min(a_pass, begun + end - at)
            yield from self._batches.epoch(number, rows, only=slice(begun, until))
            at += until - begun


class TargetLoader:
    """The unlabelled target in shuffled batches: a pure function of seed and epoch.

    A batch of fewer than `smallest` images is left out: batch norm cannot use a single one. With
    `drop_last` an incomplete batch is left out too, unless it is all there is. `geometric` views
    are moved each on its own, and their warps lead back. `shown`: say which pixels are padding.
    """

    def __init__(
        self,
        images: Pictures,
        spec: InputSpec,
        views: Views,
        *,
        strong: bool,
        batch_size: int,
        seed: int,
        device: torch.device | str,
        drop_last: bool = False,
        workers: int = 0,
        smallest: int = 2,
        geometric: bool = False,
        shown: bool = False,
    ) -> None:
        self._spec = spec
        self._device = torch.device(device)
        self._plan = BatchPlan(
            len(images), batch_size=batch_size, seed=seed, drop_last=drop_last, smallest=smallest
        )
        maker = (WarpMaker if geometric else ViewMaker)(spec, views, seed=seed)
        self._source = BatchSource(
            images, maker, self._device, strong=strong, shown=shown, workers=workers
        )

    def steps(self, rows: Int[Tensor, " R"] | None = None) -> int:
        """Batches that one epoch over `rows` (None: all) takes."""
        return self._plan.steps(None if rows is None else len(rows))

    def epoch(
        self, epoch: int, rows: Int[Tensor, " R"] | None = None, *, only: slice = ALL
    ) -> Iterator[TargetBatch]:
        """The batches of one epoch, or `only` some. `rows` may name a row several times."""
        for made in self._source.batches(self._plan.jobs(epoch, rows)[only]):
            yield TargetBatch(
                index=made.rows.to(self._device, non_blocking=True),
                weak=standardise(made.weak, self._spec, self._device),
                strong=(
                    None
                    if made.strong is None
                    else standardise(made.strong, self._spec, self._device)
                ),
                weak_warp=_on_device(made.weak_warp, self._device),
                strong_warp=_on_device(made.strong_warp, self._device),
                shown=(
                    None
                    if made.shown is None
                    else made.shown.to(self._device, non_blocking=True).bool()
                ),
            )


def _on_device(warp: Warp | None, device: torch.device) -> Warp | None:
    return None if warp is None else Warp(*(part.to(device) for part in warp))
