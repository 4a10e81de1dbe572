"""Runs, metrics and registered models: the only code that imports mlflow."""

from pathlib import Path

from sfda.notebook.addresses import offer_resolver
from tasks.tracking.fetched import fetch, fetch_bundle
from tasks.tracking.moves import Move, begun_move, forget_move, note_move, set_champion
from tasks.tracking.registry import (
    RegisteredModel,
    by_alias,
    canonical,
    champions,
    check_name,
    describe_version,
    find_version,
    register_bundle,
    registered_models,
    set_alias,
    tag_version,
    version_of_work,
    version_tags,
    versions,
)
from tasks.tracking.runs import (
    RunSummary,
    artifacts_page,
    flatten,
    key_of_run,
    last_step,
    log_file,
    log_json,
    log_manifest,
    log_points,
    read_json,
    recent_runs,
    run,
    run_key,
    set_tags,
    system_metrics,
)
from tasks.tracking.store import (
    client,
    experiment,
    is_transient,
    store_uri,
)

__all__ = [
    "Move",
    "RegisteredModel",
    "RunSummary",
    "artifacts_page",
    "begun_move",
    "by_alias",
    "canonical",
    "champions",
    "check_name",
    "client",
    "describe_version",
    "experiment",
    "fetch",
    "fetch_bundle",
    "find_version",
    "flatten",
    "forget_move",
    "is_transient",
    "key_of_run",
    "last_step",
    "log_file",
    "log_json",
    "log_manifest",
    "log_points",
    "note_move",
    "read_json",
    "recent_runs",
    "register_bundle",
    "registered_models",
    "run",
    "run_key",
    "set_alias",
    "set_champion",
    "set_tags",
    "store_uri",
    "system_metrics",
    "tag_version",
    "version_of_work",
    "version_tags",
    "versions",
]


def _resolve(address: str) -> Path:
    """The folder of the bundle at an address of MLflow. Raises BadInput."""
    return fetch_bundle(canonical(address))


for _begins in ("models:/", "runs:/"):  # sfda.load takes these from now on
    offer_resolver(_begins, _resolve)
