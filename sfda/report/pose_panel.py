"""The panel of poses: the persons whose joints the adaptation moved most."""

from __future__ import annotations

import numpy as np
from torch import nn

from sfda.building_blocks.device import DeviceName, choose, place
from sfda.formats.keypoints import Person
from sfda.inference.pose import pose_all
from sfda.loading import opened as manifests
from sfda.problems.pose.panel import PoseSample, pose_panel
from sfda.refs import ManifestRef, ModelSpec, Skeleton
from sfda.report.segmentation_panel import LOOKED_AT, SHOWN, open_labelled, rgb


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

    At most 64 persons are looked at.
    """
    chosen = choose(device)
    before, after = place(source, chosen), place(adapted, chosen)
    opened = open_labelled(manifest, split, spec, labelled=labelled)
    crops = manifests.crops_of(opened.split)
    people = manifests.people_for(opened.split, spec.classes) if labelled else None
    rows = np.unique(np.linspace(0, len(opened.images) - 1, LOOKED_AT).round().astype(int)).tolist()
    stored = np.stack([opened.images[row] for row in rows])
    places = [crops.crop(row) for row in rows]
    looks = []
    for network in (before, after):
        found = pose_all(network, stored, spec.input, places, device=chosen)
        looks.append([pose for _, pose in found])
    samples = []
    for row, crop, one, other in zip(rows, places, *looks, strict=True):
        corner = np.array([crop.left, crop.top])
        samples.append(
            PoseSample(
                name=opened.split.names[row],
                image=rgb(opened.split.image(row, spec.input.window)),
                source=one.joints - corner,
                adapted=other.joints - corner,
                truth=None if people is None else shown(people[row]) - corner,
            )
        )
    samples.sort(key=lambda sample: -sample.moved)
    skeleton = spec.skeleton or Skeleton()
    edges = skeleton.places(skeleton.edges, spec.classes)
    return pose_panel(samples[:SHOWN], edges, title=f"{title}  (split {split})")


def shown(person: Person) -> np.ndarray:
    """The joints that are labelled; the others as NaN, which nothing is drawn of."""
    return np.where(person.visible[:, None] > 0, person.joints, np.nan)
