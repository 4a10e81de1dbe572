"""The source card of a segmenter: the same statistics, of pixels, and the classes' usual sizes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from sfda.inference.forward import infer
from sfda.loading.labelled_batches import labelled_batches
from sfda.loading.opened import Opened
from sfda.problems.classification.card import make_classification_card
from sfda.problems.segmentation.network import SegOutput
from sfda.refs import Metrics, ModelSpec, Report
from sfda.types import UNSURE
from sfda.weights.source_card import Card

CARD_PIXELS = 256  # of one image that statistics are taken from


class SampledPixels(NamedTuple):
    """Some pixels of a batch, as a classifier would give images."""

    features: Float[Tensor, "M D"]
    logits: Float[Tensor, "M C"]


def make_source_card(
    network: nn.Module,
    opened: Opened,
    spec: ModelSpec,
    facts: dict[str, Any],
    report: Report,
    device: torch.device,
) -> Card:
    """The card of a segmenter from one weak view of each image of its own labelled split."""

    def outputs() -> Iterator[tuple[SegOutput, Int[Tensor, "B H W"]]]:
        for batch in labelled_batches(opened, spec, 8, seed=0, device=device).epoch(0):
            assert batch.labelled is not None
            yield infer(network, batch.weak, device), batch.labelled.targets

    return make_segmentation_card(network, outputs(), facts, spec.classes, report.metrics)


def make_segmentation_card(
    network: nn.Module,
    outputs: Iterable[tuple[SegOutput, Int[Tensor, "B H W"]]],
    facts: dict[str, Any],
    classes: tuple[str, ...],
    metrics: Metrics,
) -> Card:
    """The card from one look at labelled source images; `metrics` are those of the whole split.

    Statistics are of about 256 pixels an image. `class_ratio` [C] is each class's share of the
    pixels in those images that show it, 0 for a class that none shows (AdaMI's prior,
    docs/methods/segmentation.md, section A.4); `class_prior` its share of all pixels.
    """
    ratios = MaskRatios(len(classes))

    def pixels() -> Iterator[tuple[SampledPixels, Int[Tensor, " M"]]]:
        for output, masks in outputs:
            ratios.update(masks)
            sampled, labels = some_pixels(output, masks)
            if len(labels):
                yield sampled, labels

    card = make_classification_card(network, pixels(), facts, classes)
    tensors = {**card.tensors, "class_prior": ratios.overall(), "class_ratio": ratios.shown()}
    facts_with = card.facts.model_copy(update={"metrics": metrics, "count": ratios.images})
    return replace(card, facts=facts_with, tensors=tensors)


def some_pixels(
    output: SegOutput, masks: Int[Tensor, "B H W"], *, at_most: int = CARD_PIXELS
) -> tuple[SampledPixels, Int[Tensor, " M"]]:
    """Pixels on a regular grid over the feature map, those that do not count left out."""
    height, width = output.features.shape[-2:]
    stride = max(1, math.ceil(math.sqrt(height * width / at_most)))
    rows, columns = torch.arange(0, height, stride), torch.arange(0, width, stride)
    features = output.features[..., rows, :][..., columns]
    rows = (rows * masks.shape[-2] + masks.shape[-2] // 2) // height
    columns = (columns * masks.shape[-1] + masks.shape[-1] // 2) // width
    logits = output.logits[..., rows, :][..., columns]
    labels = masks[..., rows, :][..., columns].reshape(-1)
    counts = labels != UNSURE
    flat = (part.movedim(1, -1).reshape(len(labels), -1)[counts] for part in (features, logits))
    return SampledPixels(*flat), labels[counts]


class MaskRatios:
    """How much of the images each class takes up."""

    def __init__(self, classes: int) -> None:
        self.pixels = torch.zeros(classes, dtype=torch.double)
        self.sum = torch.zeros(classes, dtype=torch.double)
        self.images_with = torch.zeros(classes, dtype=torch.double)
        self.images = 0

    def update(self, masks: Int[Tensor, "B H W"]) -> None:
        """Take in masks; pixels that do not count have no part in any share."""
        for mask in masks.cpu():
            counts = mask[mask != UNSURE].bincount(minlength=len(self.pixels)).double()
            self.images += 1
            self.pixels += counts
            self.sum += counts / counts.sum().clamp_min(1)
            self.images_with += counts > 0

    def overall(self) -> Float[Tensor, " C"]:
        """Share of all pixels."""
        return (self.pixels / self.pixels.sum().clamp_min(1)).float()

    def shown(self) -> Float[Tensor, " C"]:
        """Mean share in the images that show the class."""
        return (self.sum / self.images_with.clamp_min(1)).float()
