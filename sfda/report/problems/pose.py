"""The panel of poses: the persons whose joints the adaptation moved most."""

from __future__ import annotations

import numpy as np
from torch import nn

from sfda.building_blocks.device import DeviceName, choose, to_device
from sfda.formats.keypoints import Person
from sfda.inference.pose import pose_all
from sfda.loading.labels import crops_of, persons_for
from sfda.problems.pose.panel import PoseSample, pose_panel
from sfda.refs import ManifestRef, ModelSpec, Skeleton
from sfda.report.changed_images import PANEL_ROWS, open_for_panel, rgb, sampled_rows


def draw_pose_panel(
    source: nn.Module,
    adapted: nn.Module,
    spec: ModelSpec,
    manifest: ManifestRef,
    split: str,
    title: str,
    device: DeviceName,
    *,
    labelled: bool,
) -> bytes:
    """A PNG of crops with source's joints, adapted joints and, where `labelled`, the truth.

    At most 64 persons are compared.
    """
    chosen = choose(device)
    before, after = to_device(source, chosen), to_device(adapted, chosen)
    opened = open_for_panel(manifest, split, spec, labelled=labelled)
    crops = crops_of(opened.split)
    persons = persons_for(opened.split, spec.classes) if labelled else None
    rows = sampled_rows(len(opened.images))
    stored = np.stack([opened.images[row] for row in rows])
    row_crops = [crops.crop(row) for row in rows]
    poses = []
    for network in (before, after):
        every = pose_all(network, stored, spec.input, row_crops, device=chosen)
        poses.append([pose for _, pose in every])
    samples = []
    for row, crop, one, other in zip(rows, row_crops, *poses, strict=True):
        corner = np.array([crop.left, crop.top])
        samples.append(
            PoseSample(
                name=opened.split.names[row],
                image=rgb(opened.split.image(row, spec.input.window)),
                source=one.joints - corner,
                adapted=other.joints - corner,
                truth=None if persons is None else labelled_joints(persons[row]) - corner,
            )
        )
    samples.sort(key=lambda sample: -sample.moved)
    skeleton = spec.skeleton or Skeleton()
    edges = skeleton.index_pairs(skeleton.edges, spec.classes)
    return pose_panel(samples[:PANEL_ROWS], edges, title=f"{title}  (split {split})")


def labelled_joints(person: Person) -> np.ndarray:
    """The joints that are labelled; the others as NaN, which nothing is drawn of."""
    return np.where(person.visible[:, None] > 0, person.joints, np.nan)
