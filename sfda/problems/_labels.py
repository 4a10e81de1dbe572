"""What the labels of every problem are: as people gave them, and as a network learns from them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from sfda.errors import Concerns
from sfda.refs import ModelSpec

if TYPE_CHECKING:
    from sfda.augment.photometric import Several, ViewMaker
    from sfda.formats.readers import Reader

Array = np.ndarray[Any, Any]
Maker = TypeVar("Maker", contravariant=True)  # of the views that labels move with
BatchLabels = TypeVar("BatchLabels")  # of a batch, as the problem's loss takes them


class LabelSet(ABC):
    """What people say of some rows: one class, mask, set of boxes or set of joints each.

    As read, in the classes of their manifest and in pixels of the images as they came.
    """

    @abstractmethod
    def __len__(self) -> int:
        """How many rows it says something of."""

    @abstractmethod
    def take(self, positions: Array) -> LabelSet:
        """What it says of some of its rows, in their order."""

    @abstractmethod
    def in_classes(
        self,
        classes: tuple[str, ...] | int | None,
        model: tuple[str, ...],
        manifest: str,
        *,
        unknown: bool = False,
    ) -> LabelSet:
        """The same in the order of the model's classes, by name; `classes` are its own.

        Raises BadInput where names do not fit and, unless `unknown` classes have a meaning here,
        where something is of a class that the model lacks.
        """

    @abstractmethod
    def framed(
        self, reader: Reader, rows: Sequence[int], spec: ModelSpec, folder: Path
    ) -> AnyTargets:
        """The same in the frame of the network, to be learnt from; call `in_classes` first.

        `rows` are those of `reader`, the split's images, that it speaks of, in order; files are
        kept below `folder`.
        """

    def row_classes(self) -> list[tuple[int, ...]] | None:
        """The classes of each row; None where labels are of parts of images."""
        return None

    @property
    def known(self) -> Array:
        """[N]: the rows that say something in the model's classes; call `in_classes` first."""
        return np.ones(len(self), dtype=bool)

    def left_out(self) -> str:
        """What of it cannot be learnt from, for the log; '' for nothing."""
        return ""

    def notes(self) -> tuple[str, ...]:
        """What is no fault but should be known, such as boxes left out."""
        return ()

    def check(self, row: int) -> object:
        """Raise BadInput where a row's label lies in a file that cannot be used; what was seen of
        it otherwise, for `concerns`.
        """
        return None

    def concerns(self, seen: Sequence[Any], classes: tuple[str, ...]) -> Concerns:
        """Faults and notes that only many rows together show, from what `check` saw of each, in the
        classes of their manifest.
        """
        return Concerns([], [])


class Targets(ABC, Generic[Maker, BatchLabels]):
    """Labels in the frame of a network, by position, moved as their images are."""

    @abstractmethod
    def __len__(self) -> int:
        """How many images they are of."""

    @abstractmethod
    def views(
        self, maker: Maker, stored: Several, positions: Array, epoch: int, keys: Array
    ) -> tuple[Array, BatchLabels]:
        """Weak views [B, H, W, C] of stored images, a function of (seed, epoch, key), and the
        labels at `positions` moved with them.
        """

    @abstractmethod
    def to_device(self, moved: BatchLabels, device: torch.device) -> BatchLabels:
        """What `views` gave, as the problem's loss takes it, on a device."""


AnyTargets = Targets[Any, Any]


@dataclass(frozen=True, eq=False)
class ImageTargets(Targets["ViewMaker", Tensor]):
    """Labels [N, ...] of whole images: the same whichever view is shown."""

    labels: Array = field(repr=False)
    dtype: type[np.generic] = np.int64  # what the loss takes

    def __len__(self) -> int:
        return len(self.labels)

    def views(
        self, maker: ViewMaker, stored: Several, positions: Array, epoch: int, keys: Array
    ) -> tuple[Array, Tensor]:
        """Views, and the labels as they are."""
        weak = np.ascontiguousarray(maker.weak(stored, epoch, keys))
        return weak, torch.from_numpy(self.labels[positions].astype(self.dtype))

    def to_device(self, moved: Tensor, device: torch.device) -> Tensor:
        """The same labels."""
        return moved.to(device)
