"""Labels of a detection: boxes with a class each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from sfda.building_blocks.boxes import Boxes, BoxLabels
from sfda.errors import Concerns
from sfda.formats.coco import (
    BoxTable,
    Document,
    annotations_of,
    box_table,
    images_of,
    read_coco,
    size_faults,
)
from sfda.formats.plausibility.rewriting import concerns_of, known_sizes
from sfda.formats.readers import Reader
from sfda.images.preprocess import fitted
from sfda.inference.forward import Size
from sfda.manifests.class_matching import class_map, foreign_classes
from sfda.manifests.labels import SplitContent
from sfda.manifests.readers import make_reader
from sfda.manifests.schema import Manifest
from sfda.problems._labels import Array, LabelSet, Targets
from sfda.refs import InputSpec, ModelSpec
from sfda.types import UNKNOWN

if TYPE_CHECKING:
    from sfda.augment.photometric import Several, ViewMaker


@dataclass(frozen=True, eq=False)
class BoxSets(LabelSet):
    """The boxes of each row, and how many are left out as of classes that the model lacks."""

    table: BoxTable = field(repr=False)
    foreign: int = 0

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, row: int) -> BoxLabels:
        return self.table[row]

    def take(self, positions: Array) -> BoxSets:
        """Those of some rows."""
        rows = tuple(self.table.rows[int(position)] for position in positions)
        return BoxSets(BoxTable(rows, self.table.notes), self.foreign)

    def in_classes(
        self,
        classes: tuple[str, ...] | int | None,
        model: tuple[str, ...],
        manifest: str,
        *,
        unknown: bool = False,
    ) -> BoxSets:
        """Boxes in the model's classes, those of classes that it lacks left out."""
        index_of = class_map(classes, model, manifest)
        rows, foreign = [], 0
        for row in self.table.rows:
            labels = index_of[row.labels]
            known = labels != UNKNOWN
            foreign += int((~known).sum())
            rows.append(BoxLabels(row.boxes[known], labels[known], row.crowd[known]))
        if foreign and not unknown:
            raise foreign_classes(classes, model, manifest, "boxes")
        return BoxSets(BoxTable(tuple(rows), self.table.notes), foreign)

    def notes(self) -> tuple[str, ...]:
        """What was left out when they were read."""
        return self.table.notes

    def left_out(self) -> str:
        """What cannot be learnt from."""
        if not self.foreign:
            return ""
        return f"{self.foreign} annotated boxes are of classes that the model lacks"

    def framed(
        self, reader: Reader, rows: Sequence[int], spec: ModelSpec, folder: Path
    ) -> BoxTargets:
        """Boxes in the frame of the network, those of crowds left out."""
        size = reader.size
        pairs = zip(rows, self.table.rows, strict=True)
        return BoxTargets([boxes_to_frame(boxes, size(row), spec.input) for row, boxes in pairs])


@dataclass(frozen=True, eq=False)
class BoxTargets(Targets["ViewMaker", list[Boxes]]):
    """Boxes of each image, in the frame of a network."""

    boxes: list[Boxes] = field(repr=False)

    def __len__(self) -> int:
        return len(self.boxes)

    def views(
        self, maker: ViewMaker, stored: Several, positions: Array, epoch: int, keys: Array
    ) -> tuple[Array, list[Boxes]]:
        """Views, and the boxes in them."""
        own = [self.boxes[int(position)] for position in positions]
        weak, boxes = maker.weak_with_boxes(stored, own, epoch, keys)
        return weak, boxes

    def to_device(self, moved: list[Boxes], device: torch.device) -> list[Boxes]:
        """Boxes image by image."""
        return [own.to(device) for own in moved]


def read_boxes(
    manifest: Manifest,
    content: SplitContent,
    document: Document,
    images: list[Document],
) -> list[str]:
    """Images by file name into `content`, their boxes where labels may be read; faults of those."""
    content.keys = [str(image["file_name"]) for image in images]
    known = all(image.get("labelled", True) for image in images)
    if not (manifest.labelled and known and document["annotations"]):
        return []
    table, faults = box_table(document, images, manifest.classes)
    content.labels = None if table is None else BoxSets(table)
    return faults


def from_document(
    document: Document, images: list[Document], classes: tuple[str, ...]
) -> tuple[BoxSets, list[str]]:
    """The boxes of a COCO JSON, and what is wrong with them."""
    table, faults = box_table(document, images, classes)
    return BoxSets(table), faults


def geometry_of(manifest: Manifest, split: str) -> Concerns:
    """The sizes that a split's row file states, against the images; and boxes against both."""
    spec = manifest.splits[split]
    path = manifest.rows_path(spec)
    if path is None or path.suffix.lower() != ".json":
        return Concerns([], [])
    try:
        document = read_coco(path)
        images = images_of(document, spec.where)
        reader = make_reader(manifest, [str(i["file_name"]) for i in images])
        faults = size_faults(images, reader)
        if not manifest.labelled:
            return Concerns(faults, [])
        entries = [entry for own in annotations_of(document, images) for entry in own]
        concerns = concerns_of(entries, known_sizes(images, reader))
    except ValueError:
        return Concerns([], [])  # said of the row file, or of the image, already
    return Concerns(faults + concerns.faults, concerns.notes)


def boxes_to_frame(labelled: BoxLabels, size: Size, spec: InputSpec) -> Boxes:
    """A person's boxes, but those of crowds, in the frame of the network. `size`: the image's."""
    single = ~labelled.crowd
    boxes = torch.from_numpy(labelled.boxes[single] * frame_ratio(size, spec))
    labels = torch.from_numpy(labelled.labels[single])
    return Boxes(boxes, labels, torch.ones(len(labels)))


def boxes_from_frame(framed: Boxes, size: Size, spec: InputSpec) -> Boxes:
    """Boxes of the network's frame in pixels of an image of `size`, clipped to it.

    What lies in the part of the frame that the image does not fill is no prediction.
    """
    boxes = framed.boxes.cpu().float() / torch.from_numpy(frame_ratio(size, spec))
    height, width = size
    limits = torch.tensor([width, height, width, height], dtype=torch.float32)
    boxes = torch.minimum(boxes.clamp(min=0), limits)
    left = ((boxes[:, 2:] - boxes[:, :2]) > 0).all(1)
    return Boxes(boxes, framed.labels.cpu(), framed.scores.cpu().float()).where(left)


def frame_ratio(size: Size, spec: InputSpec) -> np.ndarray:
    """Frame by image, for x1, y1, x2 and y2."""
    inner = fitted(size, spec)
    high, wide = inner[0] / size[0], inner[1] / size[1]
    return np.array([wide, high, wide, high], np.float32)
