"""One object a problem: whoever would ask "is it segmentation?" asks it instead.

A problem is a folder `sfda/problems/<name>/`. Its `__init__.py` exports one `Problem` with the
facts, and its files hold the work under names that are the same in all folders:

    network.py     defaults, make_spec, build_from_spec
    weights.py     load_network, load_backbone
    loss.py        loss, pseudo_labels
    teaching.py    teach, learn: what mean teacher needs
    labels.py      a LabelSet, its Targets, and how they are read
    inference.py   infer_rows, keep_outputs, prediction_table, summarise_output ..., and what
                   validators and vetoes ask: entropy_sum, agreement_counts, tally
    served.py      Served, what a deployed bundle is loaded as
    evaluation.py  evaluator_for, resampled
    card.py        make_source_card
    panel.py       draw_changed, pictures of what an adaptation changed most
    change.py      CLAIM, answers, image_units, x_of: where two models differ, and who is right;
                   opinions, what a model says of a pool, kept to be compared with others
    labelling.py   LABELLING, how people are asked and their answers read

Each is imported when it is asked for: a deployed model brings along what serves it, no more. All
layers know this interface and none but the folders knows an implementation, so a further problem
is a further folder. What is asked of a problem stands in three files: here what it is and
how its networks learn, in `_outputs.py` what they say, in `_rows.py` what people say.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Generic

from pydantic import ValidationError
from torch import Tensor

from sfda.config import say_faults
from sfda.errors import BadInput
from sfda.networks.families._base import Answer
from sfda.problems._class_score import ClassScore
from sfda.problems._labels import BatchLabels
from sfda.problems._outputs import Net, NetOutput, OutputQuestions, Prediction
from sfda.problems._rows import RowQuestions
from sfda.problems._teaching import Guard, Taught, TeacherSettings
from sfda.refs import InputSpec, ModelSpec, Views
from sfda.types import Images, Losses, TargetBatch, TargetInfo

if TYPE_CHECKING:
    from sfda.manifests.schema import Manifest


class Problem(
    OutputQuestions[Net, NetOutput, Prediction],
    RowQuestions,
    ABC,
    Generic[Net, BatchLabels, NetOutput, Prediction],
):
    """What sets one problem apart from another. Methods raise BadInput for what cannot be used.

    By the class of its networks, the labels of a batch as its loss takes them, what a network says
    of a batch, and what is made of that.
    """

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
    shows_padding: ClassVar[bool] = False  # batches say which pixels are the image's
    rejects: ClassVar[bool] = False  # a prediction may be "unknown"

    # networks

    @property
    @abstractmethod
    def network(self) -> type[Net]:
        """The class of its networks, which say whose they are by an attribute `problem`."""

    def defaults(self, arch: str) -> tuple[InputSpec | None, Views]:
        """Input and usual random views of an architecture; no input where it states none."""
        stated: tuple[InputSpec | None, Views] = self._file("network").defaults(arch)
        return stated

    def make_spec(self, arch: str, classes: tuple[str, ...], **parts: object) -> ModelSpec:
        """A spec with what the architecture states filled in; `input`, `views` and the problem's
        own `spec_options` may be stated.
        """
        with _as_bad_input():
            spec: ModelSpec = self._file("network").make_spec(arch, classes, **parts)
        return spec

    def build_from_spec(self, spec: ModelSpec) -> Net:
        """The network that a bundle's weights fit, with random weights."""
        network: Net = self._file("network").build_from_spec(spec)
        return network

    def in_form_of(self, network: Net, spec: ModelSpec) -> Net:
        """A network of ours with the parts that a spec of the same architecture adds to it, as they
        are when nothing has been learnt of them.
        """
        return network

    def load_network(self, weights: Mapping[str, Tensor], **how: object) -> tuple[Net, ModelSpec]:
        """Weights trained elsewhere as a network of ours, every key accounted for."""
        with _as_bad_input():
            loaded: tuple[Net, ModelSpec] = self._file("weights").load_network(weights, **how)
        return loaded

    def load_backbone(self, network: Net, weights: Mapping[str, Tensor]) -> int:
        """Weights trained elsewhere into a network's backbone, in place; how many were taken."""
        filled: int = self._file("weights").load_backbone(network, weights)
        return filled

    def start_from_nothing_(self, network: Net) -> None:
        """Prepare a network with random weights for training, in place."""
        return

    def manifest_options(self, manifest: Manifest) -> dict[str, Any]:
        """What a spec takes over from the manifest that a network is trained on."""
        return {}

    def manifest_concern(self, manifest: Manifest, spec: ModelSpec) -> str:
        """What of a manifest is other than what a model was trained on, and yet can be used; ''
        for nothing.
        """
        return ""

    # learning

    def loss(self, network: Net, images: Images, targets: BatchLabels, **how: object) -> Losses:
        """Supervised loss, and loss on pseudo-labels; what is unsure does not count."""
        losses: Losses = self._file("loss").loss(network, images, targets, **how)
        return losses

    def annotated_loss(self, network: Net, images: Images, targets: BatchLabels) -> Losses:
        """Loss on what people annotated of single rows."""
        return self.loss(network, images, targets)

    def pseudo_labels(self, network: Net, images: Images, threshold: float) -> BatchLabels:
        """What a network is sure of; it stays in the mode it is in: put it in eval mode first."""
        labels: BatchLabels = self._file("loss").pseudo_labels(network, images, threshold)
        return labels

    def teach(self, teacher: Net, batch: TargetBatch, settings: TeacherSettings) -> Taught:
        """What a mean teacher says of a batch's weak view, and the images that it is learnt on;
        `settings` are a `MeanTeacherConfig`.
        """
        taught: Taught = self._file("teaching").teach(teacher, batch, settings)
        return taught

    def learn(
        self, student: Net, batch: TargetBatch, taught: Taught, settings: TeacherSettings
    ) -> Losses:
        """Loss of a student on what it is taught."""
        losses: Losses = self._file("teaching").learn(student, batch, taught, settings)
        return losses

    def prepare_student_(self, student: Net, settings: TeacherSettings) -> None:
        """Freeze in a mean teacher's student what does not learn here."""
        return

    def make_guard(self, target: TargetInfo, network: Net) -> Guard | None:
        """What watches the pseudo-labels of a mean teacher; None where nothing does."""
        return None


@contextmanager
def _as_bad_input() -> Iterator[None]:
    """What a spec refuses, such as a class that is called by an escape sequence, in one message."""
    try:
        yield
    except ValidationError as error:
        raise BadInput(say_faults(error, ModelSpec, "this model cannot be")) from None


AnyProblem = Problem[Any, Any, Any, Any]  # of which only the name is known
