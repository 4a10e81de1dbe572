"""Training of a pose prior from joints alone, and a copy of the model that carries it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from prefect import task
from safetensors.torch import save

from sfda.errors import BadInput
from sfda.formats.coco import images_of, read_coco
from sfda.formats.keypoints import joints_of, people_of
from sfda.loading import opened as manifests
from sfda.manifests.digests import bytes_digest, key_of
from sfda.manifests.rows import read_split
from sfda.problems.pose.prior import tree
from sfda.problems.pose.prior_training import PriorConfig, PriorReport, train_prior
from sfda.refs import ModelRef
from sfda.state_folder import disk_errors, home, one_at_a_time
from sfda.weights.bundle import write_bundle
from tasks.prefect_runtime.cache import SameWork
from tasks.prefect_runtime.retry import SERVERS
from tasks.tracking.models import open_model


def poses_in(
    path: Path, split: str | None, joints: tuple[str, ...], needed: list[int]
) -> np.ndarray[Any, Any]:
    """Joints [P, K, 2] of all persons that have those of `needed`, from a manifest or a COCO JSON
    alone.

    Of a JSON `split` picks the images whose entry says so. Raises BadInput.
    """
    if path.suffix.lower() == ".json":
        document = read_coco(path)
        _, boxes, entries, faults = people_of(document, images_of(document, split))
        found, more = joints_of(document, entries, boxes, joints)
        if faults + more:
            raise BadInput(f"{path}: " + "; ".join(faults + more))
        people = tuple(found)
    else:
        manifest = manifests.open_ref(manifests.refer(path))
        people = manifests.people_for(read_split(manifest, split or "train"), joints)
    whole = [person.joints for person in people if person.visible[needed].all()]
    if not whole:
        names = ", ".join(joints[n] for n in needed)
        raise BadInput(f"{path} has no person with all of the joints {names}")
    return np.stack(whole)


@task(
    name="training of the prior",
    cache_policy=SameWork(ignore=("poses",)),
    persist_result=True,
    result_serializer="json",
    **SERVERS,
)
def add_prior(
    model: ModelRef, poses: str, sha256: str, split: str | None, config: PriorConfig, seed: int
) -> tuple[ModelRef, PriorReport, str]:
    """A copy of the model with a prior of these poses, what it is worth, and the prior's digest.

    `sha256` is the digest of the file that the poses are from.
    """
    network, spec = open_model(model)
    if spec.problem != "pose" or spec.skeleton is None or not spec.skeleton.edges:
        raise BadInput(
            f"{model.uri} has no skeleton with edges, of which a prior is made; state `skeleton` "
            "in the manifest that the model is trained on"
        )
    edges = spec.skeleton.places(spec.skeleton.edges, spec.classes)
    on_bones = sorted({joint for edge in edges for joint in edge})
    joints = torch.from_numpy(poses_in(Path(poses), split, spec.classes, on_bones))
    prior, report = train_prior(joints, *tree(edges, len(spec.classes)), config, seed=seed)
    network.prior = prior
    network.frozen = frozenset({"prior"})
    fresh = spec.model_copy(update={"prior_hidden": config.hidden})
    key = key_of(model=model.sha256, poses=sha256, split=split, config=config, seed=seed)
    folder = home() / "priors" / key[:24]
    with disk_errors(f"the model with its prior in {folder}"), one_at_a_time(folder):
        digest = write_bundle(folder, network, fresh)
    found = model.model_copy(update={"uri": str(folder), "sha256": digest})
    return found, report, bytes_digest(save(prior.state_dict()))
