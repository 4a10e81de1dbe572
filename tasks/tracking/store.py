"""The MLflow store: whose it is, and our experiment in it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from sfda.state_folder import home, one_at_a_time

EXPERIMENT = "sfda"
TRANSIENT = ("TEMPORARILY_UNAVAILABLE", "INTERNAL_ERROR", "REQUEST_LIMIT_EXCEEDED")


def client() -> MlflowClient:
    """The client of the store that `MLFLOW_TRACKING_URI` names now."""
    return client_of(store_uri())


@lru_cache
def client_of(uri: str) -> MlflowClient:
    """The client of a store, which is made or brought up to date first."""
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    with made_by_one(uri):
        return MlflowClient(uri, uri)


@contextmanager
def made_by_one(uri: str) -> Iterator[None]:
    """A store in SQLite is made, or brought up to date, by one process at a time: two at once would
    break on each other's tables.
    """
    file = Path(uri.partition(":///")[2].partition("?")[0])
    if not uri.startswith("sqlite:///") or not file.parent.is_dir():
        yield
        return
    with one_at_a_time(file):
        yield


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
