"""The labels of a split in the classes of a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sfda.errors import BadInput
from sfda.loading.opened import open_ref
from sfda.manifests.rows import Split, read_split
from sfda.problems._labels import LabelSet
from sfda.problems.registry import PROBLEMS
from sfda.refs import ManifestRef


def labels_in(split: Split, model: tuple[str, ...], *, unknown: bool = False) -> Any:
    """The split's labels in the order of the model's classes: the `LabelSet` of its problem.

    Raises BadInput where there are none or names do not fit, and, unless `unknown` classes have a
    meaning here, where something is of a class that the model lacks.
    """
    if split.labels is None:
        what = PROBLEMS[split.problem].label_word
        raise BadInput(f"{split.manifest} has no {what} in '{split.name}', and this needs some")
    labels: LabelSet = split.labels.in_classes(
        split.classes, model, split.manifest, unknown=unknown
    )
    return labels


class ImageSizes(Sequence[tuple[int, int]]):
    """(height, width) in pixels of each image as it came: what masks and boxes are predicted in."""

    def __init__(self, split: Split, first: int = 0) -> None:
        self.split, self.first = split, first

    def __len__(self) -> int:
        return len(self.split) - self.first

    def __getitem__(self, row: Any) -> Any:
        return self.split.reader.size(self.first + row)


def check_learnable(ref: ManifestRef, split: str, classes: tuple[str, ...]) -> None:
    """Raise BadInput unless every row of the split has a label, of one of these classes."""
    labels_in(read_split(open_ref(ref), split), classes)
