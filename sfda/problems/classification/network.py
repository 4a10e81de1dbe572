"""Classification: one image, one class. The network, its loss, and labels from its outputs."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from sfda.building_blocks.losses import sure_cross_entropy
from sfda.building_blocks.pseudo_labels import sure
from sfda.errors import BadInput
from sfda.networks import classifiers as networks
from sfda.networks.input_defaults import defaults, dropout
from sfda.refs import InputSpec, ModelSpec, Views
from sfda.types import Images, Losses

__all__ = [
    "Bottleneck",
    "ClassOutput",
    "Classifier",
    "build",
    "build_from_spec",
    "defaults",
    "from_native",
    "loss",
    "make_spec",
    "pseudo_labels",
]

Head = Literal["bottleneck", "plain"]


class ClassOutput(NamedTuple):
    """What a classifier says of a batch. The features are what goes into the head."""

    features: Float[Tensor, "B D"]
    logits: Float[Tensor, "B C"]


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


class Classifier(nn.Module):
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

    def forward(self, images: Images) -> ClassOutput:
        """Features and logits, in float32 also under autocast."""
        z = self.bottleneck(self.backbone(images))
        logits = self.head(z)
        return ClassOutput(pool(z.float()), logits.float())


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


def build(
    arch: str,
    classes: int,
    *,
    head: Head = "bottleneck",
    bottleneck_dim: int = 256,
    bottleneck_dropout: float | None = None,
) -> Classifier:
    """A classifier with random weights.

    `bottleneck_dropout` None is the architecture's own: 0.5 for SHOT's LeNet, else 0.
    """
    network = networks.native(arch, classes)
    if head == "plain":
        return from_native(arch, network, classes)
    if bottleneck_dim < 1:
        raise BadInput(f"bottleneck_dim must be at least 1, not {bottleneck_dim}")
    rate = dropout(arch) if bottleneck_dropout is None else bottleneck_dropout
    parts = networks.split(arch, network)
    return Classifier(
        parts.backbone,
        Bottleneck(parts.width, bottleneck_dim, dropout=rate),
        make_head(bottleneck_dim, classes),
        feature_dim=bottleneck_dim,
        num_classes=classes,
    )


def from_native(arch: str, network: nn.Module, classes: int) -> Classifier:
    """A network of `networks.native` as a classifier: cut before its last layer, nothing added."""
    parts = networks.split(arch, network)
    return Classifier(
        parts.backbone, nn.Identity(), parts.head, feature_dim=parts.width, num_classes=classes
    )


def build_from_spec(spec: ModelSpec) -> Classifier:
    """The classifier that a bundle's weights fit, with random weights."""
    return build(
        spec.arch,
        len(spec.classes),
        head=spec.head,
        bottleneck_dim=spec.bottleneck_dim,
        bottleneck_dropout=spec.bottleneck_dropout,
    )


def make_spec(
    arch: str,
    classes: tuple[str, ...],
    *,
    head: Head = "bottleneck",
    bottleneck_dim: int = 256,
    bottleneck_dropout: float | None = None,
    input: InputSpec | None = None,
    views: Views | None = None,
) -> ModelSpec:
    """A spec with what the architecture states filled in; BadInput if it states no input."""
    stated, usual = defaults(arch)
    chosen = input or stated
    if chosen is None:
        raise BadInput(f"{arch} does not state its input: give its size, mean, std and channels")
    if len(set(classes)) != len(classes):
        twice = sorted({c for c in classes if classes.count(c) > 1})
        raise BadInput(f"classes named twice: {', '.join(twice)}")
    return ModelSpec(
        problem="classification",
        arch=arch,
        classes=classes,
        input=chosen,
        views=views or usual,
        head=head,
        bottleneck_dim=bottleneck_dim,
        bottleneck_dropout=dropout(arch) if bottleneck_dropout is None else bottleneck_dropout,
    )


def loss(
    model: nn.Module,
    images: Images,
    targets: Int[Tensor, " B"],
    *,
    smoothing: float = 0.0,
    weights: Float[Tensor, " C"] | None = None,
) -> Losses:
    """Cross-entropy of the images, see `sure_cross_entropy`: unsure ones do not count."""
    out: ClassOutput = model(images)
    return {"class": sure_cross_entropy(out.logits, targets, smoothing=smoothing, weights=weights)}


@torch.no_grad()
def pseudo_labels(model: nn.Module, images: Images, threshold: float) -> Int[Tensor, " B"]:
    """The likeliest class where its probability reaches `threshold`, else unsure.

    The network stays in the mode it is in: put it in eval mode first.
    """
    out: ClassOutput = model(images)
    return sure(out.logits.softmax(1), threshold, by_class=False)
