"""Labels of a pose: the joints of one person a row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from sfda.augment.geometric import WarpMaker, targets_in_view
from sfda.augment.photometric import WEAK
from sfda.building_blocks.heatmaps import PoseTargets
from sfda.building_blocks.warps import Pairs
from sfda.errors import Concerns
from sfda.formats.coco import Document, annotations_of, images_of, read_coco
from sfda.formats.keypoints import CropReader, Person, joints_of, persons_of
from sfda.formats.plausibility.rewriting import concerns_of, known_sizes
from sfda.formats.readers import Reader
from sfda.images.crops import to_crop_frame
from sfda.manifests.class_matching import joint_order
from sfda.manifests.labels import SplitContent
from sfda.manifests.readers import make_reader
from sfda.manifests.rows import Split
from sfda.manifests.schema import Manifest
from sfda.problems._labels import Array, LabelSet, Targets
from sfda.refs import ModelSpec

if TYPE_CHECKING:
    from sfda.augment.photometric import Several


@dataclass(frozen=True, eq=False)
class JointSets(LabelSet):
    """The person of each row, in pixels of the image."""

    persons: tuple[Person, ...] = field(repr=False)

    def __len__(self) -> int:
        return len(self.persons)

    def __getitem__(self, row: int) -> Person:
        return self.persons[row]

    def take(self, positions: Array) -> JointSets:
        """Those of some rows."""
        return JointSets(tuple(self.persons[int(position)] for position in positions))

    def in_classes(
        self,
        classes: tuple[str, ...] | int | None,
        model: tuple[str, ...],
        manifest: str,
        *,
        unknown: bool = False,
    ) -> JointSets:
        """Joints in the order of the model's. Raises BadInput where they are others."""
        own = classes if isinstance(classes, tuple) else ()
        order = joint_order(own, model, manifest)
        return JointSets(
            tuple(
                person._replace(joints=person.joints[order], visible=person.visible[order])
                for person in self.persons
            )
        )

    def framed(
        self, reader: Reader, rows: Sequence[int], spec: ModelSpec, folder: Path
    ) -> JointTargets:
        """Joints in the frame of the network, which the person's crop fills."""
        assert isinstance(reader, CropReader)
        joints = [
            to_crop_frame(person.joints, reader.crop(row), spec.input.size)
            for row, person in zip(rows, self.persons, strict=True)
        ]
        targets = PoseTargets(
            torch.from_numpy(np.stack(joints)).float(),
            torch.from_numpy(np.stack([person.visible for person in self.persons])).float(),
        )
        return JointTargets(targets, spec.joint_pairs)


@dataclass(frozen=True, eq=False)
class JointTargets(Targets[WarpMaker, PoseTargets]):
    """Joints of each person in the frame of a network; `pairs` of them are left and right."""

    poses: PoseTargets = field(repr=False)
    pairs: Pairs = ()

    def __len__(self) -> int:
        return len(self.poses.joints)

    def views(
        self, maker: WarpMaker, stored: Several, positions: Array, epoch: int, keys: Array
    ) -> tuple[Array, PoseTargets]:
        """Views that are moved, and the joints in them."""
        view = maker.moved(np.asarray(stored), epoch, keys, WEAK)
        own = PoseTargets(*(part[torch.from_numpy(positions)] for part in self.poses))
        return view.views, targets_in_view(own, view, maker.spec.size, self.pairs)

    def to_device(self, moved: PoseTargets, device: torch.device) -> PoseTargets:
        """Both parts."""
        return PoseTargets(*(part.to(device) for part in moved))


def read_persons(
    manifest: Manifest,
    content: SplitContent,
    document: Document,
    images: list[Document],
) -> list[str]:
    """A row a person into `content`, with its joints where labels may be read; further faults."""
    content.keys, content.crops, entries, faults = persons_of(document, images)
    if manifest.labelled and all("keypoints" in entry for entry in entries):
        persons, odd = joints_of(document, entries, content.crops, manifest.classes)
        content.labels = None if persons is None else JointSets(tuple(persons))
        faults = faults + odd
    return faults


def geometry_of(manifest: Manifest, split: str) -> Concerns:
    """Persons' boxes, and where they may be read their joints, against the images."""
    spec = manifest.splits[split]
    path = manifest.rows_path(spec)
    if path is None or path.suffix.lower() != ".json":
        return Concerns([], [])
    try:
        document = read_coco(path)
        images = images_of(document, spec.where)
        sizes = known_sizes(images, make_reader(manifest, [str(i["file_name"]) for i in images]))
        parts = annotations_of(document, images)
    except ValueError:
        return Concerns([], [])  # said of the row file, or of the image, already
    entries = [entry for own in parts for entry in own if not entry.get("iscrowd")]
    return concerns_of(entries, sizes, joints=manifest.labelled)


def from_document(
    document: Document, images: list[Document], classes: tuple[str, ...]
) -> tuple[JointSets, list[str]]:
    """The person of each image of a COCO JSON, and what is wrong with them."""
    parts = annotations_of(document, images)
    single = [own[0] for own in parts if len(own) == 1]
    faults = ["rows with none, or several, persons in them"] if len(single) < len(parts) else []
    joints, odd = joints_of(document, single, [None] * len(single), classes)
    return JointSets(tuple(joints)), faults + odd


def crops_of(split: Split) -> CropReader:
    """Where the persons of a split lie in their images."""
    assert isinstance(split.reader, CropReader)
    return split.reader
