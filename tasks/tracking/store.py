"""The MLflow store: whose it is, and our experiment in it."""

from __future__ import annotations

import os
from functools import lru_cache

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from sfda.state_folder import home

EXPERIMENT = "sfda"
TRANSIENT = ("TEMPORARILY_UNAVAILABLE", "INTERNAL_ERROR", "REQUEST_LIMIT_EXCEEDED")


def client() -> MlflowClient:
    """The client of the store that `MLFLOW_TRACKING_URI` names now."""
    return _client(store_uri())


@lru_cache
def _client(uri: str) -> MlflowClient:
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    return MlflowClient(uri, uri)


def experiment() -> str:
    """The id of our experiment, made if absent; local stores keep its files below home."""
    known = client().get_experiment_by_name(EXPERIMENT)
    if known is not None:
        return str(known.experiment_id)
    local = store_uri().startswith("sqlite:")
    location = (home() / "mlartifacts").as_uri() if local else None
    try:
        kind = {"mlflow.experimentKind": "custom_model_development"}  # which pages the UI offers
        made = client().create_experiment(EXPERIMENT, artifact_location=location, tags=kind)
        return str(made)
    except MlflowException:  # somebody else made it meanwhile
        known = client().get_experiment_by_name(EXPERIMENT)
        if known is None:
            raise
        return str(known.experiment_id)


def is_transient(error: BaseException) -> bool:
    """Whether an MLflow server was down or busy; not what was asked, nor a store on this disk."""
    served = store_uri().startswith(("http://", "https://"))
    return served and isinstance(error, MlflowException) and error.error_code in TRANSIENT


def store_uri() -> str:
    """The user's store, or SQLite below home, where a worker imports a flow without our command."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{home() / 'mlflow.db'}"
