"""Segmentation: one class a pixel. The network, its loss, and labels from its outputs."""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from sfda.types import Images


class SegOutput(NamedTuple):
    """What a segmenter says of a batch. The features are what goes into the head."""

    features: Float[Tensor, "B D h w"]
    logits: Float[Tensor, "B C H W"]


class Segmenter(nn.Module):
    """Images to features to logits of every pixel, in three parts that methods address by name.

    `backbone(images)` gives whatever `decoder` takes, `decoder` a map of features, `head` logits.
    The image is padded to a multiple of `multiple` pixels and the padding cut off the logits, so
    that no entropy and no ratio ever counts it. A head with one output is a binary one: its logit
    l becomes the two logits [0, l].
    """

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
