"""A set of poses -> a pose prior, in a new version of the source model that will need it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.runtime import flow_run

from flows.addresses import registered_name, short_address
from sfda.config import Config
from sfda.errors import BadInput
from sfda.manifests.digests import file_digest
from sfda.problems.pose.prior_training import PriorConfig, PriorReport
from sfda.refs import Version
from sfda.settings import Seed
from tasks import tracking
from tasks.register import register_source
from tasks.tracking.models import model_ref
from tasks.train_prior import add_prior

log = logging.getLogger("sfda")


class PriorResult(Config):
    """What training a prior tells at its end."""

    flow_run_id: str
    mlflow_run_id: str
    version: Version
    report: PriorReport
    prior_sha256: str


def _title() -> str:
    model, poses = flow_run.parameters["model"], flow_run.parameters["poses"]
    return f"prior of {short_address(model)} from {short_address(poses)}"


@flow(name="train-prior", flow_run_name=_title)
def train_prior(
    model: str,
    poses: str,
    split: str | None = None,
    name: str | None = None,
    settings: dict[str, Any] | None = None,
    seed: Seed = 0,
) -> PriorResult:
    """Register a version of `model` with a prior of the `poses` in a manifest, or in a COCO JSON.

    No image is read, so any set of poses of the same joints will do. A prior that falls short of
    what it should be is kept, and what it lacks is said.
    """
    source, name = model_ref(model), name or registered_name(model)
    tracking.check_name(name)
    path = Path(poses)
    if not path.is_file():
        raise BadInput(f"no poses at {poses}; give a manifest or a COCO JSON with keypoints")
    config = PriorConfig.from_settings(settings or {})
    digest = file_digest(path)
    key = tracking.run_key("prior", source, digest, split, config, name, seed)
    tags = {"prefect.flow_run_id": str(flow_run.id)}
    params = {"model": source.uri, "poses": short_address(poses), **config.model_dump()}
    with tracking.run(_title(), key=key, tags=tags, params={**params, "seed": seed}) as run_id:
        fresh, report, prior = add_prior(source, str(path.absolute()), digest, split, config, seed)
        for fault in report.faults:
            log.warning("the prior is weak: %s", fault)
        points = [(f"prior/{k}", float(v), 0) for k, v in report.model_dump().items()]
        tracking.log_points(run_id, points)
        origin = {"source": source.uri, "prior_sha256": prior, "poses_sha256": digest}
        version = register_source(fresh, name, run_id, origin)
    return PriorResult(
        flow_run_id=str(flow_run.id),
        mlflow_run_id=run_id,
        version=version,
        report=report,
        prior_sha256=prior,
    )
