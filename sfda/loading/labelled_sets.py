"""Labelled images for a network to learn from, or to be measured on, whatever the problem."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from sfda.building_blocks.boxes import Boxes
from sfda.images.preprocess import answer
from sfda.images.store import Pictures
from sfda.inference.detection import detect_all, to_frame
from sfda.loading import opened as manifests
from sfda.loading.batches import LabelledLoader, TargetLoader
from sfda.loading.labelled_batches import LabelledBatches
from sfda.loading.network_frame import framed_boxes, framed_poses
from sfda.loading.opened import Opened
from sfda.loading.scan import labelled_scan
from sfda.problems.segmentation.labels import keep_masks
from sfda.refs import ModelSpec
from sfda.state_folder import disk_errors, home
from sfda.types import Batches


def labelled_batches(
    opened: Opened,
    spec: ModelSpec,
    batch_size: int,
    *,
    seed: int,
    device: torch.device,
    workers: int = 0,
) -> Batches:
    """A split in shuffled batches, each with its labels. Raises BadInput where some lack."""
    given: dict[str, Any] = {
        "batch_size": batch_size, "seed": seed, "device": device, "workers": workers
    }  # fmt: skip
    if spec.problem == "segmentation":
        return LabelledLoader(opened.images, _masks(opened, spec), spec.input, spec.views, **given)
    if spec.problem == "detection":
        table = manifests.boxes_for(opened.split, spec.classes)
        boxes = framed_boxes(enumerate(table.rows), opened.split, spec.input)
        return LabelledLoader(opened.images, boxes, spec.input, spec.views, **given)
    if spec.problem == "pose":
        people = manifests.people_for(opened.split, spec.classes)
        poses = framed_poses(enumerate(people), opened.split, spec.input)
        return LabelledLoader(
            opened.images, poses, spec.input, spec.views, pairs=spec.joint_pairs, **given
        )
    labels = torch.from_numpy(manifests.labels_for(opened.split, spec.classes))
    loader = TargetLoader(opened.images, spec.input, spec.views, strong=False, **given)
    return LabelledBatches(loader, labels.to(device))


def labelled_outputs(
    network: nn.Module, opened: Opened, spec: ModelSpec, device: torch.device
) -> Iterator[tuple[Any, Tensor]]:
    """What a network makes of a split, and its labels: of images as they are, or, for
    segmentation, of one weak view of each.
    """
    if spec.problem == "segmentation":
        for batch in labelled_batches(opened, spec, 8, seed=0, device=device).epoch(0):
            assert batch.labelled is not None
            yield answer(network, batch.weak, device), batch.labelled.targets
        return
    labels = manifests.labels_for(opened.split, spec.classes)
    yield from labelled_scan(opened.images, labels, spec.input, device=device)(network)


def labelled_boxes(
    network: nn.Module, opened: Opened, spec: ModelSpec, device: torch.device
) -> Iterator[tuple[Boxes, Boxes]]:
    """What a detector makes of every image of a split, and a person's boxes of it."""
    truth = manifests.boxes_for(opened.split, spec.classes)
    sizes = manifests.AnswerSizes(opened.split)
    look = detect_all(network, opened.images, spec.input, device=device, sizes=sizes)
    for row, found in look:
        yield found, to_frame(truth[row], sizes[row], spec.input)


def _masks(opened: Opened, spec: ModelSpec) -> Pictures:
    """The split's masks in the model's classes, prepared as its images are and kept beside them."""
    table = manifests.mask_table(opened.split, spec.classes)
    assert opened.split.masks is not None
    folder = home() / "decoded"
    with disk_errors(f"masks below {folder}"):
        return keep_masks(opened.split.masks, len(opened.images), spec.input, folder, table=table)
