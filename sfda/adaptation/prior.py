"""A pose prior of joints alone, put into a copy of a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from sfda.errors import BadInput
from sfda.formats.coco import images_of, read_coco
from sfda.formats.keypoints import joints_of, persons_of
from sfda.loading.labels import labels_in
from sfda.loading.opened import manifest_ref, open_ref
from sfda.manifests.rows import read_split
from sfda.problems.pose.network import PoseNet
from sfda.problems.pose.prior import tree
from sfda.problems.pose.prior_training import PriorConfig, PriorReport, learn_prior
from sfda.refs import ModelSpec


def poses_in(
    path: Path, split: str | None, joints: tuple[str, ...], needed: list[int]
) -> np.ndarray[Any, Any]:
    """Joints [P, K, 2] of all persons that have those of `needed`, from a manifest or a COCO JSON
    alone.

    Of a JSON `split` picks the images whose entry says so. Raises BadInput.
    """
    if path.suffix.lower() == ".json":
        document = read_coco(path)
        _, boxes, entries, faults = persons_of(document, images_of(document, split))
        persons, more = joints_of(document, entries, boxes, joints)
        if faults + more:
            raise BadInput(f"{path}: " + "; ".join(faults + more))
    else:
        manifest = open_ref(manifest_ref(path))
        persons = list(labels_in(read_split(manifest, split or "train"), joints).persons)
    whole = [person.joints for person in persons if person.visible[needed].all()]
    if not whole:
        names = ", ".join(joints[n] for n in needed)
        raise BadInput(f"{path} has no person with all of the joints {names}")
    return np.stack(whole)


def attach_prior(
    network: PoseNet,
    spec: ModelSpec,
    poses: Path,
    split: str | None,
    config: PriorConfig,
    *,
    seed: int,
) -> tuple[ModelSpec, PriorReport]:
    """Give a pose network a frozen prior of these poses; its spec with it, and the prior's worth.

    Raises BadInput where the poses lack joints.
    """
    assert spec.skeleton is not None
    edges = spec.skeleton.index_pairs(spec.skeleton.edges, spec.classes)
    on_bones = sorted({joint for edge in edges for joint in edge})
    joints = torch.from_numpy(poses_in(poses, split, spec.classes, on_bones))
    prior, report = learn_prior(joints, *tree(edges, len(spec.classes)), config, seed=seed)
    network.prior = prior
    network.frozen = frozenset({"prior"})
    return spec.model_copy(update={"prior_hidden": config.hidden}), report
