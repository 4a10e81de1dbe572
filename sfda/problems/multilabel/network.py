"""Multi-label classification: a classifier whose outputs are independent. Its spec and defaults."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

from jaxtyping import Float
from torch import Tensor

from sfda.errors import BadInput
from sfda.problems.classification import network as classification
from sfda.problems.classification.network import Classifier, ThreeParts
from sfda.problems.multilabel.cells import name_fault
from sfda.refs import InputSpec, ModelSpec, Views
from sfda.types import Images


class MultilabelOutput(NamedTuple):
    """What a network says of a batch: a logit of yes for every class. The features are what goes
    into the head.
    """

    features: Float[Tensor, "B D"]
    logits: Float[Tensor, "B C"]

    @property
    def problem(self) -> str:
        """The problem that this is an output of."""
        return MultilabelClassifier.problem


class MultilabelClassifier(ThreeParts):
    """A classifier's three parts, so whatever a classifier can be made of serves here too; each
    logit goes into a sigmoid.
    """

    problem: ClassVar[str] = "multilabel"

    def forward(self, images: Images) -> MultilabelOutput:
        """Features and logits."""
        return MultilabelOutput(*self.features_and_logits(images))


def of_parts(network: Classifier) -> MultilabelClassifier:
    """The parts of a classifier, with outputs that are independent."""
    return MultilabelClassifier(
        network.backbone,
        network.bottleneck,
        network.head,
        feature_dim=network.feature_dim,
        num_classes=network.num_classes,
    )


def build_from_spec(spec: ModelSpec) -> MultilabelClassifier:
    """The network that a bundle's weights fit, with random weights."""
    return of_parts(classification.build_from_spec(spec))


def defaults(arch: str) -> tuple[InputSpec | None, Views]:
    """Input and usual random views of an architecture; no input where it states none."""
    return classification.defaults(arch)


def make_spec(arch: str, classes: tuple[str, ...], **parts: Any) -> ModelSpec:
    """A spec as a classifier's. Raises BadInput for a class that no list of names can hold."""
    return as_multilabel(classification.make_spec(arch, classes, **parts))


def as_multilabel(spec: ModelSpec) -> ModelSpec:
    """A classifier's spec for independent outputs. Raises BadInput as `make_spec`."""
    if fault := next(filter(None, map(name_fault, spec.classes)), ""):
        raise BadInput(fault)
    return spec.model_copy(update={"problem": MultilabelClassifier.problem})
