"""Training of a pose prior from joints alone, and a copy of the model that carries it."""

from __future__ import annotations

from pathlib import Path

from prefect import task
from safetensors.torch import save

from sfda.adaptation import prior as pose_prior
from sfda.errors import BadInput
from sfda.manifests.digests import bytes_digest, key_of
from sfda.problems.pose.prior_training import PriorConfig, PriorReport
from sfda.refs import ModelRef
from sfda.state_folder import disk_errors, home, one_at_a_time
from sfda.weights.bundle import write_bundle
from tasks.prefect_runtime.cache import SameWork
from tasks.prefect_runtime.retry import SERVERS
from tasks.tracking.models import open_model


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
    if spec.skeleton is None or not spec.skeleton.edges:
        raise BadInput(
            f"{model.uri} has no skeleton with edges, of which a prior is made; state `skeleton` "
            "in the manifest that the model is trained on"
        )
    fresh, report = pose_prior.attach_prior(network, spec, Path(poses), split, config, seed=seed)
    key = key_of(model=model.sha256, poses=sha256, split=split, config=config, seed=seed)
    folder = home() / "priors" / key[:24]
    with disk_errors(f"the model with its prior in {folder}"), one_at_a_time(folder):
        digest = write_bundle(folder, network, fresh)
    copy = model.model_copy(update={"uri": str(folder), "sha256": digest})
    return copy, report, bytes_digest(save(network.prior.state_dict()))
