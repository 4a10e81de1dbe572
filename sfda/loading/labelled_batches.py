"""A labelled split in shuffled batches, each with its labels: supervised training."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Int
from torch import Tensor

from sfda.errors import BadInput
from sfda.images.preprocess import standardise
from sfda.images.store import Pictures
from sfda.loading.batch_making import BatchPlan, BatchSource
from sfda.loading.batches import ALL
from sfda.loading.labels import labels_in
from sfda.loading.opened import Opened
from sfda.problems._base import AnyProblem
from sfda.problems._labels import AnyTargets
from sfda.problems.registry import PROBLEMS
from sfda.refs import InputSpec, ModelSpec, Views
from sfda.state_folder import home
from sfda.types import Labelled, TargetBatch


def labelled_batches(
    opened: Opened,
    spec: ModelSpec,
    batch_size: int,
    *,
    seed: int,
    device: torch.device,
    workers: int = 0,
) -> LabelledLoader:
    """A split in shuffled batches, each with its labels. Raises BadInput where some lack."""
    split = opened.split
    labels = labels_in(split, spec.classes)
    targets = labels.framed(split.reader, range(len(split)), spec, home() / "decoded")
    return LabelledLoader(
        opened.images,
        targets,
        spec.input,
        spec.views,
        problem=PROBLEMS[spec.problem],
        batch_size=batch_size,
        seed=seed,
        device=device,
        workers=workers,
    )


class LabelledLoader:
    """Images with their labels in shuffled batches, each in `TargetBatch.labelled`: for training
    on labels alone. Labels are in the network's frame; what does not count is unsure. A pure
    function of seed and epoch.
    """

    def __init__(
        self,
        images: Pictures,
        targets: AnyTargets,
        spec: InputSpec,
        views: Views,
        *,
        problem: AnyProblem,
        batch_size: int,
        seed: int,
        device: torch.device | str,
        workers: int = 0,
    ) -> None:
        if len(targets) != len(images):
            raise BadInput(f"{len(images)} images but {problem.label_word} of {len(targets)}")
        self._spec = spec
        self._device = torch.device(device)
        self._targets = targets
        self._plan = BatchPlan(
            len(images),
            batch_size=batch_size,
            seed=seed,
            drop_last=False,
            smallest=problem.smallest_batch,
        )
        maker = problem.view_maker(spec, views, seed=seed)
        self._source = BatchSource(images, maker, self._device, targets=targets, workers=workers)

    def steps(self, rows: Int[Tensor, " R"] | None = None) -> int:
        """Batches that one epoch over `rows` (None: all) takes."""
        return self._plan.steps(None if rows is None else len(rows))

    def epoch(
        self, epoch: int, rows: Int[Tensor, " R"] | None = None, *, only: slice = ALL
    ) -> Iterator[TargetBatch]:
        """The batches of one epoch, or `only` some."""
        for made in self._source.batches(self._plan.jobs(epoch, rows)[only]):
            index = made.rows.to(self._device, non_blocking=True)
            weak = standardise(made.weak, self._spec, self._device)
            targets = self._targets.to_device(made.targets, self._device)
            yield TargetBatch(index, weak, labelled=Labelled(index, weak, targets))
