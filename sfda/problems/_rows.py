"""What a problem is asked about the rows of a manifest: how labels are read, and how people give
them.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar

from sfda.errors import Concerns
from sfda.problems._labels import Array, LabelSet

if TYPE_CHECKING:
    from sfda.formats.coco import Document
    from sfda.formats.readers import Reader
    from sfda.manifests.labels import SplitContent
    from sfda.manifests.rows import Split
    from sfda.manifests.schema import Manifest
    from sfda.problems.labelling import Labelling

Rows = Sequence[Mapping[str, str]]


class ProblemFolder:
    """A problem and the files of its folder."""

    name: ClassVar[str]

    def _file(self, name: str) -> ModuleType:
        """A file of the problem's folder, as a module."""
        return importlib.import_module(f"{type(self).__module__}.{name}")


class RowQuestions(ProblemFolder):
    """What is read of rows, and written for people. Methods raise BadInput."""

    labels_are_files: ClassVar[bool] = False  # beside the images, and so perhaps in their archive
    label_word: ClassVar[str] = "labels"  # what people give, in messages
    manifest_fields: ClassVar[frozenset[str]] = frozenset()  # that say something of it alone
    annotation_column: ClassVar[str | None] = None  # of the CSV of answers; None: a COCO JSON
    unlabelled_cell: ClassVar[str] = ""  # of that column in a row file: nobody looked at the image
    folders_name_classes: ClassVar[bool] = True  # an image's folder may be a label of it
    annotations: ClassVar[str] = ""  # of a COCO JSON that manifests are made of: "boxes"

    def manifest_fault(self, manifest: Manifest) -> str:
        """What is wrong with what a manifest says of this problem; '' if nothing."""
        return ""

    def read_columns(
        self, manifest: Manifest, content: SplitContent, rows: Rows | None, header: Sequence[str]
    ) -> None:
        """Put what the columns of a row file (None: the arrays of an npz) say besides the images
        into `content`; what does not fit becomes a fault. Labels are not even looked at unless the
        manifest says that they may be.
        """
        return

    def read_document(
        self,
        manifest: Manifest,
        content: SplitContent,
        document: Document,
        images: list[Document],
    ) -> list[str]:
        """The same of a COCO JSON, the rows of which go into `content.keys`; further faults."""
        content.keys = [str(image["file_name"]) for image in images]
        return []

    def labels_of(
        self, manifest: Manifest, content: SplitContent, images: Reader
    ) -> LabelSet | None:
        """The labels of all rows of a split; None where there are none."""
        return content.labels

    def geometry(self, manifest: Manifest, split: str) -> Concerns:
        """What a row file states of its images' sizes and is not so, and what is odd about where
        its labels lie.
        """
        return Concerns([], [])

    def row_file(self, key: str) -> str:
        """The file that holds a row's image, below the root: several rows may share one."""
        if "#" not in key:
            return key
        from sfda.formats.volumes import slice_of

        part = slice_of(key)
        return part.file if part else key

    def image_file(self, key: str) -> str:
        """What is read of that file for a row: all of it, or a slice of a volume."""
        return key

    def reader(self, manifest: Manifest, content: SplitContent, images: Reader) -> Reader:
        """The images of a split's rows, out of what `image_file` names."""
        return images

    def seen_facts(self, split: Split) -> str:
        """What an adaptation sees of a split besides its images and their names, as text."""
        return ""

    # labels of whole images, for manifests that are being made

    def labels_from_table(self, rows: Rows, header: Sequence[str], what: str) -> list[str | None]:
        """What each row of a table says, as a row file has it; None where it says nothing."""
        labels: list[str | None] = self._file("labels").labels_from_table(rows, header, what)
        return labels

    def classes_in_header(self, header: Sequence[str]) -> tuple[str, ...]:
        """The classes that the columns of a table name, also those that no row has."""
        return ()

    def labels_from_array(
        self, labels: Array, names: tuple[str, ...] | int, what: str
    ) -> list[str]:
        """What each row of an npz's array says, as a row file has it."""
        texts: list[str] = self._file("labels").labels_from_array(labels, names, what)
        return texts

    def classes_in(self, label: str) -> tuple[str, ...]:
        """The classes that such a text names."""
        return (label,)

    def label_of(self, classes: Sequence[str]) -> str:
        """The text that names these classes."""
        (name,) = classes
        return name

    # annotations of single rows

    @property
    def labelling(self) -> Labelling[Any]:
        """How people are asked for labels, and their answers read."""
        labelling: Labelling[Any] = self._file("labelling").LABELLING
        return labelling

    def annotation_faults(self, values: list[str], classes: tuple[str, ...]) -> list[int]:
        """Which values of `annotation_column` cannot be read."""
        return []

    def annotations_from_column(
        self, values: list[str], classes: tuple[str, ...], folder: Path, images: Reader
    ) -> tuple[LabelSet, tuple[Path, ...]]:
        """What people said of rows whose images are `images`, and the files below `folder` that
        it lies in.
        """
        annotated: tuple[LabelSet, tuple[Path, ...]]
        annotated = self._file("labels").from_column(values, classes, folder, images)
        return annotated

    def annotations_from_document(
        self, document: Document, images: list[Document], classes: tuple[str, ...]
    ) -> tuple[LabelSet, list[str]]:
        """The same out of a COCO JSON, an image a row, and what is wrong with it."""
        annotated: tuple[LabelSet, list[str]]
        annotated = self._file("labels").from_document(document, images, classes)
        return annotated
