"""The card of a source model, made of what it says of its own labelled data."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sfda.building_blocks.boxes import Boxes
from sfda.inference.detection import boxes_to_frame, detect_all
from sfda.inference.forward import infer
from sfda.loading.labelled_batches import labelled_batches
from sfda.loading.labels import ImageSizes, boxes_for, labels_for
from sfda.loading.opened import Opened
from sfda.loading.scan import labelled_scan
from sfda.problems.classification.card import make_classification_card
from sfda.problems.detection.card import make_detection_card
from sfda.problems.segmentation.card import make_segmentation_card
from sfda.refs import ModelSpec, Report
from sfda.state_folder import disk_errors, one_at_a_time
from sfda.weights.bundle import bundle_digest
from sfda.weights.bundle_files import copy_files
from sfda.weights.source_card import Card, attach_card


def make_source_card(
    network: nn.Module,
    opened: Opened,
    spec: ModelSpec,
    facts: dict[str, Any],
    report: Report,
    device: torch.device,
) -> Card | None:
    """The card of a network on its own labelled data; None for poses.

    What a source of poses ships is its prior: `sfda train-prior`.
    """
    if spec.problem == "pose":
        return None
    if spec.problem == "detection":
        pairs = labelled_boxes(network, opened, spec, device)
        return make_detection_card(network, pairs, facts, spec.classes, report.metrics)
    outputs = labelled_outputs(network, opened, spec, device)
    if spec.problem == "segmentation":
        return make_segmentation_card(network, outputs, facts, spec.classes, report.metrics)
    return make_classification_card(network, outputs, facts, spec.classes)


def copy_with_card(bundle: Path, card: Card, folder: Path) -> str:
    """A copy of a bundle that carries this card, at `folder`; one that is there already stays.

    The copy's digest: it covers the card, and so is another than the bundle's.
    """
    with (
        disk_errors(f"the card in {folder}"),
        one_at_a_time(folder),
        tempfile.TemporaryDirectory(dir=folder.parent) as scratch,
    ):
        fresh = Path(scratch, "bundle")
        copy_files(bundle, fresh)
        attach_card(fresh, card)
        if not folder.is_dir():
            fresh.rename(folder)
        return bundle_digest(folder)


def labelled_outputs(
    network: nn.Module, opened: Opened, spec: ModelSpec, device: torch.device
) -> Iterator[tuple[Any, Tensor]]:
    """What a network makes of a split, and its labels: of images as they are, or, for
    segmentation, of one weak view of each.
    """
    if spec.problem == "segmentation":
        for batch in labelled_batches(opened, spec, 8, seed=0, device=device).epoch(0):
            assert batch.labelled is not None
            yield infer(network, batch.weak, device), batch.labelled.targets
        return
    labels = labels_for(opened.split, spec.classes)
    yield from labelled_scan(opened.images, labels, spec.input, device=device)(network)


def labelled_boxes(
    network: nn.Module, opened: Opened, spec: ModelSpec, device: torch.device
) -> Iterator[tuple[Boxes, Boxes]]:
    """What a detector makes of every image of a split, and a person's boxes of it."""
    truth = boxes_for(opened.split, spec.classes)
    sizes = ImageSizes(opened.split)
    detections = detect_all(network, opened.images, spec.input, device=device, sizes=sizes)
    for row, boxes in detections:
        yield boxes, boxes_to_frame(truth[row], sizes[row], spec.input)
