"""One object a problem: whoever would ask "is it segmentation?" asks it instead.

A problem is a folder `sfda/problems/<name>/`. Its `__init__.py` exports one `Problem` with the
facts, and its files hold the work under names that are the same in all folders:

    network.py     defaults, make_spec, build_from_spec
    weights.py     load_network, load_backbone
    loss.py        loss, pseudo_labels
    teaching.py    teach, learn: what mean teacher needs
    labels.py      a LabelSet, its Targets, and how they are read
    inference.py   infer_rows, keep_predictions, prediction_table, summarise_output ..., and what
                   validators ask: entropy_sum, agreement_counts
    served.py      Served, what a deployed bundle is loaded as
    evaluation.py  evaluator_for
    card.py        make_source_card
    panel.py       draw_changed, pictures of what an adaptation changed most
    labelling.py   LABELLING, how people are asked and their answers read

Each is imported when it is asked for: a deployed model brings along what serves it, no more. All
layers know this interface and none but the folders knows an implementation, so a further problem
is a further folder. This file is long because it is that interface, with all that it means.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from sfda.networks.families._base import Answer
from sfda.problems._class_score import ClassScore
from sfda.problems._labels import Array, LabelSet
from sfda.problems._teaching import Guard, Taught
from sfda.refs import InputSpec, ModelSpec, PredictionsRef, Report, Views
from sfda.types import Images, Losses, Scan, TargetBatch, TargetInfo

if TYPE_CHECKING:
    from sfda.formats.coco import Document
    from sfda.formats.readers import Reader
    from sfda.inference.served import ServedModel
    from sfda.inference.summaries import Summary
    from sfda.loading.opened import Opened
    from sfda.manifests.labels import SplitContent
    from sfda.manifests.rows import Split
    from sfda.manifests.schema import Manifest
    from sfda.problems.labelling import Labelling
    from sfda.weights.source_card import Card

SplitInference = Callable[[nn.Module], Iterator[Any]]
Evaluator = Callable[[nn.Module, float | None], Report]
Rows = Sequence[Mapping[str, str]]


class Problem(ABC):
    """What sets one problem apart from another. Methods raise BadInput for what cannot be used."""

    name: ClassVar[str]
    answer: ClassVar[Answer] = "classes"  # what its networks say of an image
    default_method: ClassVar[str]
    default_validators: ClassVar[tuple[str, ...]]  # that may choose an epoch, the best first
    held_out_metric: ClassVar[str]  # by which supervised training chooses an epoch
    main_metrics: ClassVar[Mapping[str, tuple[str, ...]]]
    """What decides between two models: the first of these that a report has. With each, the metrics
    that a comparison shows."""
    class_score: ClassVar[ClassScore] = ClassScore()  # of its reports, for a reader
    settings: ClassVar[Mapping[str, Mapping[str, Any]]] = MappingProxyType({})
    """Defaults that are other than those of a method (by its name) or of all queries ("query")."""
    spec_options: ClassVar[frozenset[str]] = frozenset()  # that a user may state, beside the input
    smallest_batch: ClassVar[int] = 2  # batch norm needs two images
    geometric: ClassVar[bool] = False  # views are moved, each on its own, and outputs brought back
    shows_padding: ClassVar[bool] = False  # batches say which pixels are the image's
    whole_image: ClassVar[bool] = False  # probabilities are of the image itself, not of its parts
    has_nothing_class: ClassVar[bool] = False  # the last probability is of "nothing there"
    labels_are_files: ClassVar[bool] = False  # beside the images, and so perhaps in their archive
    label_word: ClassVar[str] = "labels"  # what people give, in messages
    rejects: ClassVar[bool] = False  # a prediction may be "unknown"
    manifest_fields: ClassVar[frozenset[str]] = frozenset()  # that say something of it alone
    annotation_column: ClassVar[str | None] = None  # of the CSV of answers; None: a COCO JSON
    unlabelled_cell: ClassVar[str] = ""  # of that column in a row file: nobody looked at the image
    folders_name_classes: ClassVar[bool] = True  # an image's folder may be a label of it
    card_parts: ClassVar[tuple[str, ...]] = ()  # tensors that a source card should hold
    annotations: ClassVar[str] = ""  # of a COCO JSON that manifests are made of: "boxes"

    def _file(self, name: str) -> Any:
        """A file of the problem's folder, as a module."""
        return importlib.import_module(f"{type(self).__module__}.{name}")

    # networks

    @property
    @abstractmethod
    def network(self) -> type[nn.Module]:
        """The class of its networks, which say whose they are by an attribute `problem`."""

    def defaults(self, arch: str) -> tuple[InputSpec | None, Views]:
        """Input and usual random views of an architecture; no input where it states none."""
        stated: tuple[InputSpec | None, Views] = self._file("network").defaults(arch)
        return stated

    def make_spec(self, arch: str, classes: tuple[str, ...], **parts: Any) -> ModelSpec:
        """A spec with what the architecture states filled in; `input`, `views` and the problem's
        own `spec_options` may be stated.
        """
        spec: ModelSpec = self._file("network").make_spec(arch, classes, **parts)
        return spec

    def build_from_spec(self, spec: ModelSpec) -> Any:
        """The network that a bundle's weights fit, with random weights."""
        return self._file("network").build_from_spec(spec)

    def load_network(
        self, weights: Mapping[str, Tensor], **how: Any
    ) -> tuple[nn.Module, ModelSpec]:
        """Weights trained elsewhere as a network of ours, every key accounted for."""
        loaded: tuple[nn.Module, ModelSpec] = self._file("weights").load_network(weights, **how)
        return loaded

    def load_backbone(self, network: nn.Module, weights: Mapping[str, Tensor]) -> None:
        """Weights trained elsewhere into a network's backbone, in place."""
        self._file("weights").load_backbone(network, weights)

    def start_from_nothing_(self, network: nn.Module) -> None:
        """Prepare a network with random weights for training, in place."""
        return

    def manifest_options(self, manifest: Manifest) -> dict[str, Any]:
        """What a spec takes over from the manifest that a network is trained on."""
        return {}

    # learning

    def loss(self, network: Any, images: Images, targets: Any, **how: Any) -> Losses:
        """Supervised loss, and loss on pseudo-labels; what is unsure does not count."""
        losses: Losses = self._file("loss").loss(network, images, targets, **how)
        return losses

    def annotated_loss(self, network: Any, images: Images, targets: Any) -> Losses:
        """Loss on what people annotated of single rows."""
        return self.loss(network, images, targets)

    def pseudo_labels(self, network: Any, images: Images, threshold: float) -> Any:
        """What a network is sure of; it stays in the mode it is in: put it in eval mode first."""
        return self._file("loss").pseudo_labels(network, images, threshold)

    def teach(self, teacher: Any, batch: TargetBatch, settings: Any) -> Taught:
        """What a mean teacher says of a batch's weak view, and the images that it is learnt on;
        `settings` are a `MeanTeacherConfig`.
        """
        taught: Taught = self._file("teaching").teach(teacher, batch, settings)
        return taught

    def learn(self, student: Any, batch: TargetBatch, taught: Taught, settings: Any) -> Losses:
        """Loss of a student on what it is taught."""
        losses: Losses = self._file("teaching").learn(student, batch, taught, settings)
        return losses

    def prepare_student_(self, student: nn.Module, settings: Any) -> None:
        """Freeze in a mean teacher's student what does not learn here."""
        return

    def make_guard(self, target: TargetInfo, network: nn.Module) -> Guard | None:
        """What watches the pseudo-labels of a mean teacher; None where nothing does."""
        return None

    # inference

    def infer(
        self,
        network: nn.Module,
        opened: Opened,
        spec: ModelSpec,
        device: torch.device,
        span: tuple[int, int],
    ) -> Iterator[Any]:
        """What a network makes of the rows of `span` (first, one after the last), in order."""
        outputs: Iterator[Any] = self._file("inference").infer_rows(
            network, opened, spec, device, span
        )
        return outputs

    def at_once(self, spec: ModelSpec) -> int:
        """Images that `infer` shows a network at once: parts begin at multiples of it."""
        return int(self._file("inference").at_once(spec))

    def to_arrays(self, output: Any) -> dict[str, Array]:
        """One output of `infer` as arrays that can be kept."""
        arrays: dict[str, Array] = self._file("inference").to_arrays(output)
        return arrays

    def from_arrays(self, arrays: dict[str, Array], device: torch.device) -> Any:
        """The output of `infer` that `to_arrays` was of."""
        return self._file("inference").from_arrays(arrays, device)

    def keep_predictions(
        self,
        infer: SplitInference,
        network: nn.Module,
        spec: ModelSpec,
        folder: Path,
        *,
        size: int,
        source_sha256: str,
    ) -> PredictionsRef:
        """Keep what the source model says of all `size` images below `folder`: pseudo-labels."""
        ref: PredictionsRef = self._file("inference").keep_predictions(
            infer, network, spec, folder, size=size, source_sha256=source_sha256
        )
        return ref

    def replaying(self, scan: Scan, ref: PredictionsRef, spec: ModelSpec) -> Scan:
        """A scan that need not look again at what was kept; by default it looks."""
        return scan

    def scan_batch(self, spec: InputSpec, batch_size: int) -> int:
        """Images of a scan's batch, at most `batch_size`."""
        return batch_size

    def test_view(self, stored: Any, spec: InputSpec) -> Any:
        """What a network is shown of stored images in a test: the middle."""
        from sfda.images.preprocess import centre_crop

        return centre_crop(stored, spec.size)

    def view_maker(self, spec: InputSpec, views: Views, *, seed: int) -> Any:
        """What makes weak and strong views of images."""
        from sfda.augment.geometric import WarpMaker
        from sfda.augment.photometric import ViewMaker

        return (WarpMaker if self.geometric else ViewMaker)(spec, views, seed=seed)

    def outputs_on_views(
        self,
        network: Any,
        maker: Any,
        stored: Any,
        epoch: int,
        rows: Array,
        spec: InputSpec,
        device: torch.device,
    ) -> tuple[Any, Any]:
        """What a network says of a weak and a strong view, in the frame of the images."""
        from sfda.inference.views import outputs_on_pair

        return outputs_on_pair(network, maker, stored, epoch, rows, spec, device)

    def summarise(self, output: Any) -> Summary:
        """Image-level scores and features of a batch, for queries; `output` is what the network of
        `summarised` gives.
        """
        summary: Summary = self._file("inference").summarise_output(output)
        return summary

    def summarised(self, network: nn.Module) -> nn.Module:
        """The network whose output `summarise` takes."""
        return network

    def prediction_table(
        self, network: nn.Module, spec: ModelSpec, opened: Opened, device: torch.device, out: Path
    ) -> tuple[Sequence[str], Iterable[Sequence[Any]]]:
        """Header and rows of `predictions.csv`; further files go below `out`."""
        table: tuple[Sequence[str], Iterable[Sequence[Any]]]
        table = self._file("inference").prediction_table(network, spec, opened, device, out)
        return table

    @property
    def served(self) -> type[ServedModel]:
        """What a deployed bundle is loaded as."""
        kind: type[ServedModel] = self._file("served").Served
        return kind

    # evaluation

    def make_evaluator(
        self,
        opened: Opened,
        spec: ModelSpec,
        device: torch.device,
        infer: SplitInference,
        *,
        unknown: bool = True,
    ) -> Evaluator:
        """How to evaluate networks on a labelled split; `infer` gives their outputs. Samples of
        `unknown` classes have a meaning where models may reject.
        """
        evaluate: Evaluator = self._file("evaluation").evaluator_for(
            opened, spec, device, infer, unknown=unknown
        )
        return evaluate

    def make_card(
        self,
        network: nn.Module,
        opened: Opened,
        spec: ModelSpec,
        facts: dict[str, Any],
        report: Report,
        device: torch.device,
    ) -> Card | None:
        """The source card from the model's own labelled data; None where there is none to make."""
        card: Card = self._file("card").make_source_card(
            network, opened, spec, facts, report, device
        )
        return card

    def draw_changed(
        self,
        source: nn.Module,
        adapted: nn.Module,
        opened: Opened,
        spec: ModelSpec,
        title: str,
    ) -> bytes | None:
        """A PNG of the images whose predictions changed most, with the truth where `opened` has
        labels; None where there is no such panel.
        """
        picture: bytes = self._file("panel").draw_changed(source, adapted, opened, spec, title)
        return picture

    def certainty(self, probs: Array) -> Array:
        """[N]: how sure a model is of each row, by the probabilities [N, C] of its summary: the
        likeliest class; where the last column stands for "nothing there", all that is not that.
        """
        return np.asarray(1 - probs[:, -1]) if self.has_nothing_class else np.asarray(probs.max(1))

    # scores without labels

    def entropy_sum(self, output: Any) -> tuple[float, int]:
        """Sum of the entropies, in nats, of what a network says of a batch, and of how many."""
        total: tuple[float, int] = self._file("inference").entropy_sum(output)
        return total

    def agreement_counts(
        self, weak: Any, strong: Any, classes: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """By class, part by part of a batch: how much of it was seen, and how much of that is the
        same in the outputs of both views. Classes may be more than the `classes` known so far.
        """
        counts: Iterator[tuple[Tensor, Tensor]]
        counts = self._file("inference").agreement_counts(weak, strong, classes)
        return counts

    # labels

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

    def size_faults(self, manifest: Manifest, split: str) -> list[str]:
        """What a row file states of its images' sizes and is not so."""
        return []

    def row_file(self, key: str) -> str:
        """The file that holds a row's image, below the root: several rows may share one."""
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

    def labels_from_array(
        self, labels: Array, names: tuple[str, ...] | int, what: str
    ) -> list[str]:
        """What each row of an npz's array says, as a row file has it."""
        texts: list[str] = self._file("labels").labels_from_array(labels, names, what)
        return texts

    def classes_in(self, label: str) -> tuple[str, ...]:
        """The classes that such a text names."""
        return (label,)

    # annotations of single rows

    @property
    def labelling(self) -> Labelling:
        """How people are asked for labels, and their answers read."""
        labelling: Labelling = self._file("labelling").LABELLING
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
