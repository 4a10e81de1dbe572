"""Classification: one image, one class. The network, its spec, and the spec's defaults."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from sfda.building_blocks.precision import exact
from sfda.errors import BadInput
from sfda.networks import registry
from sfda.networks.input_defaults import usual_dropout
from sfda.networks.probe import Parts
from sfda.problems.spec_checks import chosen_input, foreign_spec, refuse_doubles
from sfda.refs import InputSpec, ModelSpec, Views
from sfda.types import Images

Head = Literal["bottleneck", "plain"]

# digits: mirrored or cropped they are others, and SHOT's MNIST -> USPS augments nothing
STILL = Views(crop=False, flip=False)


class ClassOutput(NamedTuple):
    """What a classifier says of a batch. The features are what goes into the head."""

    features: Float[Tensor, "B D"]
    logits: Float[Tensor, "B C"]

    @property
    def problem(self) -> str:
        """The problem that this is an output of."""
        return Classifier.problem


class Bottleneck(nn.Module):
    """Backbone to features: linear, batch norm and, in SHOT's digit networks, dropout.

    A map is averaged over its pixels first. Xavier-normal weight and zero bias, as in SHOT.
    """

    def __init__(self, inputs: int, outputs: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)
        self.bn = nn.BatchNorm1d(outputs)
        self.dropout = nn.Dropout(dropout)
        nn.init.xavier_normal_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, z: Tensor) -> Float[Tensor, "B D"]:
        """Features after batch norm."""
        out: Tensor = self.dropout(self.bn(self.linear(pool(z))))
        return out


class ThreeParts(nn.Module):
    """Images to features to logits, in three parts that methods address by name.

    Either SHOT's network (a bottleneck and a weight-normed head) or a network as it came, with
    nothing for a bottleneck and its own last layer for a head.
    """

    def __init__(
        self,
        backbone: nn.Module,
        bottleneck: nn.Module,
        head: nn.Module,
        *,
        feature_dim: int,
        num_classes: int,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.bottleneck = bottleneck
        self.head = head
        self.feature_dim = feature_dim
        self.num_classes = num_classes
        self.frozen: frozenset[str] = frozenset()  # names of children that never train

    def features_and_logits(
        self, images: Images
    ) -> tuple[Float[Tensor, "B D"], Float[Tensor, "B C"]]:
        """In float32, also under autocast."""
        z = self.bottleneck(self.backbone(images))
        logits = self.head(z)
        return pool(z.float()), logits.float()


class Classifier(ThreeParts):
    """One class an image: the logits go into a softmax."""

    problem: ClassVar[str] = "classification"

    def forward(self, images: Images) -> ClassOutput:
        """Features and logits."""
        return ClassOutput(*self.features_and_logits(images))


class GaussianHead(nn.Module):
    """A last layer, and a linear score of unit features beside it (GDA, arXiv:2402.04087).

    `own_share` 0: the score alone; 1: the layer's logits and the score, brought row by row to the
    spread that they have over the classes. A class that is not active never wins. As made it gives
    the layer's logits.
    """

    active: Bool[Tensor, " C"]
    own_share: Float[Tensor, ""]

    def __init__(self, base: nn.Module, feature_dim: int, classes: int) -> None:
        super().__init__()
        self.base = base
        self.weight = nn.Parameter(torch.zeros(classes, feature_dim))
        self.bias = nn.Parameter(torch.zeros(classes))
        self.register_buffer("active", torch.ones(classes, dtype=torch.bool))
        self.register_buffer("own_share", torch.ones(()))

    def forward(self, z: Tensor) -> Float[Tensor, "B C"]:
        """Finite logits: a class that is not active lies 10,000 below all others."""
        own: Tensor = self.base(z).float()
        with exact():
            score = F.linear(F.normalize(pool(z.float()), dim=1), self.weight, self.bias)
            ratio = spread_ratio(score[:, self.active], own[:, self.active])
            out = torch.where(self.own_share > 0, own + ratio * score, score)
            return torch.where(self.active, out, out.amin(1, keepdim=True) - 1e4)


def spread_ratio(scores: Float[Tensor, "B C"], like: Float[Tensor, "B C"]) -> Float[Tensor, "B 1"]:
    """What brings each row of scores to the spread of `like`: std(like) / std(scores), sample
    deviations over the classes, the second with floor 1e-6 (Co-learn++, arXiv:2405.02954).

    >>> spread_ratio(torch.tensor([[0.0, 50.0]]), torch.tensor([[0.0, 2.0]]))
    tensor([[0.0400]])
    """
    return like.std(1, keepdim=True) / scores.std(1, keepdim=True).clamp_min(1e-6)


def pool(z: Tensor) -> Float[Tensor, "B D"]:
    """Vectors as they are, maps averaged over their pixels."""
    return z.mean((2, 3)) if z.ndim == 4 else z


def make_head(inputs: int, classes: int) -> nn.Module:
    """SHOT's head: linear, with the weight split into a length and a direction per class.

    Only the zero bias of the authors' initialisation takes effect: theirs is applied to the
    derived weight. So directions are torch's default, and lengths those of the directions.
    """
    linear = nn.Linear(inputs, classes)
    nn.init.zeros_(linear.bias)
    head: nn.Module = nn.utils.parametrizations.weight_norm(linear)
    return head


def from_parts(parts: Parts, classes: int) -> Classifier:
    """A native network that was cut before its last layer, with nothing added."""
    return Classifier(
        parts.backbone, nn.Identity(), parts.head, feature_dim=parts.width, num_classes=classes
    )


def _assembled(parts: Parts, classes: int, head: Head, dim: int, rate: float) -> Classifier:
    """Raises BadInput for less than two classes or an empty bottleneck."""
    if classes < 2:
        raise BadInput(f"a classifier needs at least 2 classes, not {classes}")
    if head == "plain":
        return from_parts(parts, classes)
    if dim < 1:
        raise BadInput(f"bottleneck_dim must be at least 1, not {dim}")
    return Classifier(
        parts.backbone,
        Bottleneck(parts.width, dim, dropout=rate),
        make_head(dim, classes),
        feature_dim=dim,
        num_classes=classes,
    )


def build_from_spec(spec: ModelSpec) -> Classifier:
    """The classifier that a bundle's weights fit, with random weights. Raises BadInput."""
    classes = len(spec.classes)
    parts = registry.cut_classifier(spec, registry.native_network(spec, classes, "classes"))
    made = _assembled(parts, classes, spec.head, spec.bottleneck_dim, spec.bottleneck_dropout)
    if spec.gaussian_head:
        made.head = GaussianHead(made.head, made.feature_dim, classes)
    return made


def defaults(arch: str) -> tuple[InputSpec | None, Views]:
    """Input and usual random views of an architecture; no input where it states none."""
    stated = registry.network_input(arch, "classes")
    return stated, STILL if arch.startswith("sfda:") else Views()


def make_spec(
    arch: str,
    classes: tuple[str, ...],
    *,
    head: Head = "bottleneck",
    bottleneck_dim: int = 256,
    bottleneck_dropout: float | None = None,
    input: InputSpec | None = None,
    views: Views | None = None,
    arch_settings: Mapping[str, Any] | None = None,
    head_layer: str | None = None,
) -> ModelSpec:
    """A spec with what the architecture states filled in; BadInput if it states no input.

    `bottleneck_dropout` None is the architecture's own: 0.5 for SHOT's LeNet, else 0.
    `arch_settings` and `head_layer` are of somebody's own class, see `foreign_spec`.
    """
    stated, usual = defaults(arch)
    chosen = chosen_input(arch, input, stated)
    refuse_doubles(classes)
    rate = usual_dropout(arch) if bottleneck_dropout is None else bottleneck_dropout
    spec = ModelSpec(
        problem="classification",
        arch=arch,
        classes=classes,
        input=chosen,
        views=views or usual,
        head=head,
        bottleneck_dim=bottleneck_dim,
        bottleneck_dropout=rate,
    )
    return foreign_spec(spec, len(classes), arch_settings, head_layer)
