"""Segmentation: one class a pixel. The network, its spec, and the spec's defaults."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from sfda.building_blocks.norm import spare_lone_values
from sfda.errors import BadInput
from sfda.networks import registry
from sfda.networks.probe import SegParts
from sfda.problems.spec_checks import chosen_input, foreign_spec, refuse_doubles
from sfda.refs import InputSpec, ModelSpec, Views
from sfda.types import Images

MOST_CLASSES = 255  # a mask has 8 bits, and one value does not count


class SegOutput(NamedTuple):
    """What a segmenter says of a batch. The features are what goes into the head."""

    features: Float[Tensor, "B D h w"]
    logits: Float[Tensor, "B C H W"]

    @property
    def problem(self) -> str:
        """The problem that this is an output of."""
        return Segmenter.problem


class Segmenter(nn.Module):
    """Images to features to logits of every pixel, in three parts that methods address by name.

    `backbone(images)` gives whatever `decoder` takes, `decoder` a map of features, `head` logits.
    The image is padded to a multiple of `multiple` pixels and the padding cut off the logits, so
    that no entropy and no ratio ever counts it. A head with one output is a binary one: its logit
    l becomes the two logits [0, l]. Batch norm over a single value, as on the 1x1 maps of a batch
    of one, uses its running statistics.
    """

    problem: ClassVar[str] = "segmentation"

    def __init__(
        self,
        backbone: nn.Module,
        decoder: nn.Module,
        head: nn.Module,
        *,
        feature_dim: int,
        num_classes: int,
        multiple: int = 1,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.decoder = decoder
        self.head = head
        self.feature_dim = feature_dim
        self.num_classes = num_classes
        self.multiple = multiple
        self.frozen: frozenset[str] = frozenset()  # names of children that never train
        spare_lone_values(self)

    def forward(self, images: Images) -> SegOutput:
        """Features, and logits of the images' size, in float32 also under autocast."""
        height, width = images.shape[-2:]
        below, right = -height % self.multiple, -width % self.multiple
        if below or right:
            images = F.pad(images, (0, right, 0, below), mode="replicate")
        features = self.decoder(self.backbone(images))
        logits = self.head(features).float()
        if logits.shape[-2:] != images.shape[-2:]:
            logits = F.interpolate(logits, images.shape[-2:], mode="bilinear", align_corners=False)
        logits = logits[..., :height, :width]
        if logits.shape[1] == 1:
            logits = F.pad(logits, (0, 0, 0, 0, 1, 0))
        return SegOutput(features.float(), logits)


def _outputs(classes: int, binary_logit: bool) -> int:
    """Outputs of the head. Raises BadInput for a number of classes that it cannot have."""
    if classes < 2 or classes > MOST_CLASSES:
        raise BadInput(f"a segmenter tells 2 to {MOST_CLASSES} classes apart, not {classes}")
    if binary_logit and classes != 2:
        raise BadInput(f"one output stands for two classes, not for {classes}")
    return 1 if binary_logit else classes


def from_parts(parts: SegParts, classes: int) -> Segmenter:
    """The parts of a native network as a segmenter: its own modules, nothing added."""
    return Segmenter(
        parts.backbone,
        parts.decoder,
        parts.head,
        feature_dim=parts.width,
        num_classes=classes,
        multiple=parts.multiple,
    )


def build_from_spec(spec: ModelSpec) -> Segmenter:
    """The segmenter that a bundle's weights fit, with random weights. Raises BadInput."""
    return from_parts(registry.cut_map(spec, native(spec)), len(spec.classes))


def native(spec: ModelSpec) -> nn.Module:
    """The whole network of a spec under its library's names. Raises BadInput."""
    outputs = _outputs(len(spec.classes), spec.binary_logit)
    return registry.native_network(spec, outputs, "masks")


def defaults(arch: str) -> tuple[InputSpec | None, Views]:
    """Input and usual random views of an architecture; no input where it states none.

    Strong views erase nothing: a mask has no label for noise.
    """
    return registry.network_input(arch, "masks"), Views(crop=False, erase=0.0)


def make_spec(
    arch: str,
    classes: tuple[str, ...],
    *,
    input: InputSpec | None = None,
    views: Views | None = None,
    binary_logit: bool = False,
    arch_settings: Mapping[str, Any] | None = None,
    head_layer: str | None = None,
) -> ModelSpec:
    """A spec with what the architecture states filled in; BadInput if it states no input.

    `arch_settings` and `head_layer` are of somebody's own class, see `foreign_spec`.
    """
    stated, usual = defaults(arch)
    chosen = chosen_input(arch, input, stated)
    refuse_doubles(classes)
    if views is None and chosen.tiled:
        usual = usual.model_copy(update={"crop": True})
    spec = ModelSpec(
        problem="segmentation",
        arch=arch,
        classes=classes,
        input=chosen,
        views=views or usual,
        head="plain",
        binary_logit=binary_logit,
    )
    return foreign_spec(spec, _outputs(len(classes), binary_logit), arch_settings, head_layer)
