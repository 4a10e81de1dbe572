"""The source card of a detector: how often classes occur and how sure it is of its boxes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from sfda.building_blocks.boxes import Boxes
from sfda.loading.labels import ImageSizes, labels_in
from sfda.loading.opened import Opened
from sfda.problems.classification.card import CONFIDENCE_BINS, norm_statistics
from sfda.problems.detection.inference import infer_rows
from sfda.problems.detection.labels import boxes_to_frame
from sfda.refs import Metrics, ModelSpec, Report
from sfda.weights.source_card import Card, CardFacts


def make_source_card(
    network: nn.Module,
    opened: Opened,
    spec: ModelSpec,
    facts: dict[str, Any],
    report: Report,
    device: torch.device,
) -> Card:
    """The card of a detector from its own labelled split."""
    truth = labels_in(opened.split, spec.classes)
    sizes = ImageSizes(opened.split)
    pairs = (
        (boxes, boxes_to_frame(truth[row], sizes[row], spec.input))
        for row, boxes in infer_rows(network, opened, spec, device, (0, len(opened.images)))
    )
    return make_detection_card(network, pairs, facts, spec.classes, report.metrics)


def make_detection_card(
    network: nn.Module,
    predictions: Iterable[tuple[Boxes, Boxes]],
    facts: dict[str, Any],
    classes: tuple[str, ...],
    metrics: Metrics,
) -> Card:
    """The card from pairs of a network's boxes and those of a person, one an image.

    `class_prior` [C] is each class's share of a person's boxes, `boxes_per_image` [C] their mean
    number, `confidence_histogram` [20] that of the network's scores. Boxes have no logits that a
    temperature could divide: it is 1.
    """
    counts, levels = torch.zeros(len(classes)), torch.zeros(CONFIDENCE_BINS)
    images = 0
    for predicted, truth in predictions:
        counts += truth.labels.cpu().bincount(minlength=len(classes))
        levels += predicted.scores.float().cpu().histc(CONFIDENCE_BINS, 0, 1)
        images += 1
    if not images:
        raise ValueError("a card of no images")
    tensors = {
        "class_prior": counts / counts.sum().clamp(min=1),
        "boxes_per_image": counts / images,
        "confidence_histogram": levels,
        **norm_statistics(network),
    }
    card_facts = CardFacts(classes=classes, count=images, metrics=metrics, temperature=1.0, **facts)
    return Card(facts=card_facts, tensors=tensors)
