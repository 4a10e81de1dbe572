"""Which rows make up which batch, and the making of batches, in worker processes or here."""

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

from sfda.augment.geometric import WarpMaker
from sfda.augment.photometric import ViewMaker
from sfda.errors import BadInput
from sfda.images.preprocess import BatchRows, Stack
from sfda.images.store import Pictures
from sfda.problems._labels import AnyTargets
from sfda.types import Warp


class BatchJob(NamedTuple):
    """One batch to be made: its epoch and its rows."""

    epoch: int
    rows: BatchRows


class MadeBatch(NamedTuple):
    """One batch as bytes, [B, H, W, C]."""

    rows: Tensor
    weak: Tensor
    strong: Tensor | None = None
    shown: Tensor | None = None  # [B, H, W]
    targets: Any = None  # labels that moved as the images did
    weak_warp: Warp | None = None
    strong_warp: Warp | None = None


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

    def jobs(self, epoch: int, rows: Int[Tensor, " R"] | None) -> list[BatchJob]:
        """The batches of one epoch, shuffled."""
        chosen = np.arange(self._size) if rows is None else rows.cpu().numpy().astype(np.int64)
        generator = np.random.default_rng([self._seed % 2**32, epoch % 2**32])
        order = chosen[generator.permutation(len(chosen))]
        size = self._batch_size
        return [
            BatchJob(epoch, order[n * size : (n + 1) * size]) for n in range(self.steps(len(order)))
        ]


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
        targets: AnyTargets | None = None,
        workers: int,
    ) -> None:
        self._set = _BatchSet(images, maker, strong, shown, targets)
        self._pin = device.type == "cuda"
        self._jobs = _JobSampler()
        self._loader: DataLoader[MadeBatch] | None = None
        if workers:
            self._loader = DataLoader(
                self._set,
                batch_size=None,
                sampler=self._jobs,
                num_workers=workers,
                pin_memory=self._pin,
                persistent_workers=True,
            )

    def batches(self, jobs: list[BatchJob]) -> Iterator[MadeBatch]:
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


class _BatchSet(Dataset[MadeBatch]):
    """Batches by job; the images stay in their file, in worker processes too."""

    def __init__(
        self,
        images: Pictures,
        maker: ViewMaker | WarpMaker,
        strong: bool,
        shown: bool,
        targets: AnyTargets | None,
    ) -> None:
        self.images, self.maker, self.targets = images, maker, targets
        self.strong, self.shown = strong, shown

    def __getitem__(self, job: BatchJob) -> MadeBatch:
        stored = self.images[job.rows]
        rows = torch.from_numpy(job.rows)
        if self.targets is not None:
            weak, targets = self.targets.views(self.maker, stored, job.rows, job.epoch, job.rows)
            return MadeBatch(rows, _tensor(weak), targets=targets)
        if isinstance(self.maker, WarpMaker):
            return self._moved(self.maker, np.asarray(stored), job, rows)
        where = self.maker.shown(stored, job.epoch, job.rows) if self.shown else None
        shown = None if where is None else _tensor(where)
        if not self.strong:
            weak = self.maker.weak(stored, job.epoch, job.rows)
            return MadeBatch(rows, _tensor(weak), shown=shown)
        weak, strong = self.maker.pair(stored, job.epoch, job.rows)
        return MadeBatch(rows, _tensor(weak), _tensor(strong), shown=shown)

    def _moved(self, maker: WarpMaker, stored: Stack, job: BatchJob, rows: Tensor) -> MadeBatch:
        """Two views that were moved, with the ways back."""
        weak, strong = maker.pair(stored, job.epoch, job.rows)
        warps = (
            Warp(torch.from_numpy(v.matrices), torch.from_numpy(v.flipped)) for v in (weak, strong)
        )
        one, other = warps
        return MadeBatch(
            rows, _tensor(weak.views), _tensor(strong.views), weak_warp=one, strong_warp=other
        )

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        held = state["images"]
        if isinstance(held, np.memmap) and held.filename is not None:
            state["images"] = Path(held.filename)  # else every worker would get a copy
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        if isinstance(state["images"], Path):
            state["images"] = np.load(state["images"], mmap_mode="r")
        self.__dict__.update(state)


class _JobSampler(Sampler[BatchJob]):
    """Hands the jobs of the current epoch to a loader that outlives it."""

    def __init__(self) -> None:
        self.jobs: list[BatchJob] = []

    def __iter__(self) -> Iterator[BatchJob]:
        return iter(self.jobs)

    def __len__(self) -> int:
        return len(self.jobs)


def _tensor(stack: Stack) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(stack))


def _pinned(made: MadeBatch) -> MadeBatch:
    pinned: list[Any] = [part.pin_memory() if isinstance(part, Tensor) else part for part in made]
    return MadeBatch(*pinned)
