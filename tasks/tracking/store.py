"""The MLflow store: whose it is, and our experiment in it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.store.db import utils
from mlflow.tracking import MlflowClient
from sqlalchemy import Engine

from sfda.state_folder import home, one_at_a_time
from tasks.databases import bring_up_to_date

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
    make_whole(uri)
    return MlflowClient(uri, uri)


def make_whole(uri: str) -> None:
    """Make a store in SQLite, or bring it up to date, so that a kill leaves nothing half-made.

    One process does it at a time: two at once would break on each other's tables.
    """
    file = Path(uri.partition(":///")[2].partition("?")[0])
    if not uri.startswith("sqlite:///") or not file.parent.is_dir():
        return
    with one_at_a_time(file):
        if not _is_whole(file):
            bring_up_to_date(file, _migrate)


def _is_whole(file: Path) -> bool:
    """Whether there is nothing that MLflow would make in the store at its first use."""
    with _opened(file) as engine:
        return bool(utils._all_tables_exist(engine))


def _migrate(file: Path) -> None:
    with _opened(file) as engine:
        utils._initialize_tables(engine)


@contextmanager
def _opened(file: Path) -> Iterator[Engine]:
    engine = utils.create_sqlalchemy_engine(f"sqlite:///{file}")
    try:
        yield engine
    finally:
        engine.dispose()


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
