"""Batches for training, and looks at a whole set."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from sfda.augment.geometric import WarpMaker, targets_in_view
from sfda.augment.photometric import WEAK, ViewMaker
from sfda.building_blocks.boxes import Boxes
from sfda.building_blocks.heatmaps import PoseTargets
from sfda.building_blocks.warps import Pairs
from sfda.errors import BadInput
from sfda.formats.masks import IGNORE
from sfda.images.preprocess import Rows, Stack, standardise
from sfda.images.store import Pictures
from sfda.loading.scan import labelled_scan, scan, scan_views
from sfda.refs import InputSpec, Views
from sfda.types import UNSURE, Labelled, TargetBatch, Warp

__all__ = ["LabelledLoader", "TargetLoader", "labelled_scan", "scan", "scan_views"]


class Job(NamedTuple):
    """One batch to be made: its epoch and its rows."""

    epoch: int
    rows: Rows


class Made(NamedTuple):
    """One batch as bytes, [B, H, W, C]."""

    rows: Tensor
    weak: Tensor
    strong: Tensor | None = None
    masks: Tensor | None = None  # [B, H, W]
    shown: Tensor | None = None  # [B, H, W]
    boxes: list[Boxes] | None = None
    poses: PoseTargets | None = None
    weak_warp: Warp | None = None
    strong_warp: Warp | None = None


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

    def epoch(self, epoch: int, rows: Int[Tensor, " R"] | None = None) -> Iterator[TargetBatch]:
        """The batches of one epoch. `rows` may name a row several times."""
        for made in self._source.batches(self._plan.jobs(epoch, rows)):
            yield TargetBatch(
                index=made.rows.to(self._device, non_blocking=True),
                weak=standardise(made.weak, self._spec, self._device),
                strong=(
                    None
                    if made.strong is None
                    else standardise(made.strong, self._spec, self._device)
                ),
                weak_warp=_placed(made.weak_warp, self._device),
                strong_warp=_placed(made.strong_warp, self._device),
                shown=(
                    None
                    if made.shown is None
                    else made.shown.to(self._device, non_blocking=True).bool()
                ),
            )


class LabelledLoader:
    """Images with masks, or boxes, in shuffled batches, each in `TargetBatch.labelled`: for
    training on labels alone. Pixels that do not count are unsure; boxes and joints are in the
    network's frame; `pairs` of joints are left and right. A pure function of seed and epoch.
    """

    def __init__(
        self,
        images: Pictures,
        given: Pictures | list[Boxes] | PoseTargets,
        spec: InputSpec,
        views: Views,
        *,
        batch_size: int,
        seed: int,
        device: torch.device | str,
        workers: int = 0,
        pairs: Pairs = (),
    ) -> None:
        boxed, posed = isinstance(given, list), isinstance(given, PoseTargets)
        count = len(given.joints) if isinstance(given, PoseTargets) else len(given)
        if count != len(images):
            what = "lists of boxes" if boxed else "poses" if posed else "masks"
            raise BadInput(f"{len(images)} images but {count} {what}")
        self._spec = spec
        self._device = torch.device(device)
        self._plan = BatchPlan(
            len(images), batch_size=batch_size, seed=seed, drop_last=False,
            smallest=1 if boxed else 2,
        )  # fmt: skip
        self._source = BatchSource(
            images,
            (WarpMaker if posed else ViewMaker)(spec, views, seed=seed),
            self._device,
            masks=None if isinstance(given, list | PoseTargets) else given,
            boxes=given if isinstance(given, list) else None,
            poses=given if isinstance(given, PoseTargets) else None,
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
                boxes = [found.to(self._device) for found in made.boxes]
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


class BatchPlan:
    """Which rows make up which batch."""

    def __init__(
        self, size: int, *, batch_size: int, seed: int, drop_last: bool, smallest: int = 2
    ) -> None:
        if batch_size < smallest:
            raise BadInput(f"batch size {batch_size} is too small; batch norm needs at least 2")
        if size < 2:
            raise BadInput(f"{size} images are too few to learn from; at least 2 are needed")
        self._size = size
        self._smallest = smallest
        self._batch_size = batch_size
        self._seed = seed
        self._drop_last = drop_last

    def steps(self, size: int | None) -> int:
        """Number of batches for so many rows."""
        whole, rest = divmod(self._size if size is None else size, self._batch_size)
        return whole + int(rest >= self._smallest and not (self._drop_last and whole))

    def jobs(self, epoch: int, rows: Int[Tensor, " R"] | None) -> list[Job]:
        """The batches of one epoch, shuffled."""
        chosen = np.arange(self._size) if rows is None else rows.cpu().numpy().astype(np.int64)
        generator = np.random.default_rng([self._seed % 2**32, epoch % 2**32])
        order = chosen[generator.permutation(len(chosen))]
        size = self._batch_size
        return [Job(epoch, order[n * size : (n + 1) * size]) for n in range(self.steps(len(order)))]


class BatchSource:
    """Makes batches of views, here or in worker processes; which of the two changes no value."""

    def __init__(
        self,
        images: Pictures,
        maker: ViewMaker | WarpMaker,
        device: torch.device,
        *,
        strong: bool = False,
        shown: bool = False,
        masks: Pictures | None = None,
        boxes: list[Boxes] | None = None,
        poses: PoseTargets | None = None,
        pairs: Pairs = (),
        workers: int,
    ) -> None:
        self._set = _Batches(images, maker, strong, shown, masks, boxes, poses, pairs)
        self._pin = device.type == "cuda"
        self._jobs = _Jobs()
        self._loader: DataLoader[Made] | None = None
        if workers:
            self._loader = DataLoader(
                self._set,
                batch_size=None,
                sampler=self._jobs,
                num_workers=workers,
                pin_memory=self._pin,
                persistent_workers=True,
            )

    def batches(self, jobs: list[Job]) -> Iterator[Made]:
        """The batches, in order."""
        if self._loader is not None:
            self._jobs.jobs = jobs
            # workers are the parallelism; asked for in a forked worker, this can wait for ever
            cv2.setNumThreads(0)
            yield from self._loader
            return
        for job in jobs:
            made = self._set[job]
            yield _pinned(made) if self._pin else made


class _Batches(Dataset[Made]):
    """Batches by job; the images stay in their file, in worker processes too."""

    def __init__(
        self,
        images: Pictures,
        maker: ViewMaker | WarpMaker,
        strong: bool,
        shown: bool,
        masks: Pictures | None,
        boxes: list[Boxes] | None,
        poses: PoseTargets | None,
        pairs: Pairs,
    ) -> None:
        self.shown = shown
        self.poses, self.pairs = poses, pairs
        self.images = images
        self.maker = maker
        self.strong = strong
        self.masks = masks
        self.boxes = boxes

    def __getitem__(self, job: Job) -> Made:
        stored = self.images[job.rows]
        rows = torch.from_numpy(job.rows)
        if isinstance(self.maker, WarpMaker):
            return self._moved(self.maker, np.asarray(stored), job, rows)
        if self.masks is not None:
            masks = self.masks[job.rows]
            weak, moved = self.maker.weak_with_masks(stored, masks, job.epoch, job.rows)
            return Made(rows, _tensor(weak), masks=_tensor(moved))
        if self.boxes is not None:
            own = [self.boxes[row] for row in job.rows]
            weak, placed = self.maker.weak_with_boxes(stored, own, job.epoch, job.rows)
            return Made(rows, _tensor(weak), boxes=placed)
        where = self.maker.shown(stored, job.epoch, job.rows) if self.shown else None
        shown = None if where is None else _tensor(where)
        if not self.strong:
            weak = self.maker.weak(stored, job.epoch, job.rows)
            return Made(rows, _tensor(weak), shown=shown)
        weak, strong = self.maker.pair(stored, job.epoch, job.rows)
        return Made(rows, _tensor(weak), _tensor(strong), shown=shown)

    def _moved(self, maker: WarpMaker, stored: Stack, job: Job, rows: Tensor) -> Made:
        """Views that were moved: one with the joints in it, or two with the ways back."""
        if self.poses is not None:
            view = maker.moved(stored, job.epoch, job.rows, WEAK)
            own = PoseTargets(*(part[rows] for part in self.poses))
            placed = targets_in_view(own, view, maker.spec.size, self.pairs)
            return Made(rows, _tensor(view.views), poses=placed)
        weak, strong = maker.pair(stored, job.epoch, job.rows)
        warps = (
            Warp(torch.from_numpy(v.matrices), torch.from_numpy(v.flipped)) for v in (weak, strong)
        )
        one, other = warps
        return Made(
            rows, _tensor(weak.views), _tensor(strong.views), weak_warp=one, strong_warp=other
        )

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        for name in ("images", "masks"):
            held = state[name]
            if isinstance(held, np.memmap) and held.filename is not None:
                state[name] = Path(held.filename)  # else every worker would get a copy
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name in ("images", "masks"):
            if isinstance(state[name], Path):
                state[name] = np.load(state[name], mmap_mode="r")
        self.__dict__.update(state)


class _Jobs(Sampler[Job]):
    """Hands the jobs of the current epoch to a loader that outlives it."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []

    def __iter__(self) -> Iterator[Job]:
        return iter(self.jobs)

    def __len__(self) -> int:
        return len(self.jobs)


def _placed(warp: Warp | None, device: torch.device) -> Warp | None:
    return None if warp is None else Warp(*(part.to(device) for part in warp))


def _tensor(stack: Stack) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(stack))


def _pinned(made: Made) -> Made:
    pinned: list[Any] = [part.pin_memory() if isinstance(part, Tensor) else part for part in made]
    return Made(*pinned)
