"""What lies behind a split's entry in its manifest, as far as it can be read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from sfda.formats.readers import Indices as Indices

if TYPE_CHECKING:
    from sfda.problems._labels import LabelSet


class Columns(NamedTuple):
    """What a split says of its rows besides images and labels; each for all rows or None."""

    groups: tuple[str, ...] | None = None  # the volume, or video, of each row
    spacings: tuple[tuple[float, ...], ...] | None = None  # mm: [slice,] row, column
    priors: np.ndarray[Any, np.dtype[np.float32]] | None = None  # [N, C], from the user


@dataclass
class SplitContent:
    """What lies behind a split's entry in the manifest, and every fault that was met on the way."""

    keys: list[str] = field(default_factory=list)  # files, or indices as text
    crops: list[Any] | None = None  # the box of each row in its file's image, or None
    labels: LabelSet | None = None
    label_files: list[str] | None = None  # of each row; indices as text if they lie in an npz
    more: Columns = field(default_factory=Columns)
    faults: list[str] = field(default_factory=list)
