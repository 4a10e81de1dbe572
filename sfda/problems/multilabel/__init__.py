"""Multi-label classification: of every class, whether an image shows it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from sfda.problems._base import Problem
from sfda.problems._class_score import ClassScore
from sfda.problems._labels import Array
from sfda.problems._rows import Rows

if TYPE_CHECKING:
    from torch import Tensor

    from sfda.manifests.labels import SplitContent
    from sfda.manifests.schema import Manifest
    from sfda.problems.multilabel.network import MultilabelClassifier, MultilabelOutput
    from sfda.types import Seen


class Multilabel(Problem["MultilabelClassifier", "Tensor", "MultilabelOutput", "Seen"]):
    """Any number of classes an image: an output for each, independent of the others."""

    name = "multilabel"
    default_method = "mean_teacher"
    default_validators = ("agreement", "entropy")
    held_out_metric = "macro_f1"
    main_metrics: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "macro_f1": ("macro_f1", "mean_average_precision", "micro_f1")
    }
    class_score = ClassScore("count", "f1", "F1", "macro_f1", "micro_f1")
    spec_options = frozenset({"head", "bottleneck_dim"})
    annotation_column = "classes"
    unlabelled_cell = "?"
    folders_name_classes = False
    settings: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "supervised": {"smoothing": 0.0},  # each answer is one of two, and most are no
    }

    @property
    def network(self) -> type[MultilabelClassifier]:
        """A classifier with an output for every class."""
        from sfda.problems.multilabel.network import MultilabelClassifier

        return MultilabelClassifier

    def certainty(self, probs: Array) -> Array:
        """The mean over classes of the likelier answer's probability."""
        return np.asarray(np.maximum(probs, 1 - probs).mean(1))

    def make_card(self, *args: object) -> None:
        """There is no such card yet."""

    def manifest_fault(self, manifest: Manifest) -> str:
        """A class whose name cannot stand in a list of names."""
        from sfda.problems.multilabel.cells import name_fault

        names = manifest.classes if isinstance(manifest.classes, tuple) else ()
        return next(filter(None, map(name_fault, names)), "")

    def read_columns(
        self, manifest: Manifest, content: SplitContent, rows: Rows | None, header: Sequence[str]
    ) -> None:
        """The column `classes`, or one column a class, or the label array."""
        from sfda.problems.multilabel.labels import read_class_sets

        if manifest.labelled:
            content.labels = read_class_sets(manifest, content, rows, header)

    def labels_from_table(self, rows: Rows, header: Sequence[str], what: str) -> list[str | None]:
        """The column `classes`, or one column a class, as cells of the column `classes`."""
        from sfda.problems.multilabel.cells import cells_of

        return cells_of(rows, header, what)

    def classes_in_header(self, header: Sequence[str]) -> tuple[str, ...]:
        """Those of the columns of 0 and 1."""
        from sfda.problems.multilabel.cells import columns_in

        return tuple(columns_in(header))

    def labels_from_array(
        self, labels: Array, names: tuple[str, ...] | int, what: str
    ) -> list[str]:
        """Rows of 0 and 1 as cells of the column `classes`."""
        from sfda.problems.multilabel.cells import cells_of_array

        return cells_of_array(labels, names, what)

    def classes_in(self, label: str) -> tuple[str, ...]:
        """The names in a cell of the column `classes`."""
        from sfda.problems.multilabel.cells import names_in

        return names_in(label)

    def label_of(self, classes: Sequence[str]) -> str:
        """A cell of the column `classes`."""
        from sfda.problems.multilabel.cells import cell_of

        return cell_of(classes)

    def annotation_faults(self, values: list[str], classes: tuple[str, ...]) -> list[int]:
        """Those that name what is no class."""
        return [n for n, value in enumerate(values) if set(self.classes_in(value)) - set(classes)]


EXPORT = Multilabel
