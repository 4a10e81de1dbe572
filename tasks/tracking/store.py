"""The MLflow store: whose it is, and our experiment in it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

import mlflow
from mlflow.entities import Experiment
from mlflow.exceptions import MlflowException
from mlflow.store.db import utils
from mlflow.tracking import MlflowClient
from mlflow.tracking.context import registry as contexts
from mlflow.tracking.context.git_context import GitRunContext
from sqlalchemy import Engine

from sfda.documents import cut_off
from sfda.errors import BadInput
from sfda.state_folder import home, one_at_a_time
from tasks.databases import bring_up_to_date
from tasks.prefect_runtime.folder_settings import are_ignored
from tasks.prefect_runtime.store_address import without_password

EXPERIMENT = "sfda"
PROXIED = "mlflow-artifacts"  # scheme of files that a server of MLflow hands on
TRANSIENT = ("TEMPORARILY_UNAVAILABLE", "INTERNAL_ERROR", "REQUEST_LIMIT_EXCEEDED")


def client() -> MlflowClient:
    """The client of the store that `MLFLOW_TRACKING_URI` names now."""
    return client_of(store_uri())


@lru_cache
def client_of(uri: str) -> MlflowClient:
    """The client of a store, which is made or brought up to date first."""
    if are_ignored():  # in processes of ours
        ask_no_git()
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    make_whole(uri)
    return MlflowClient(uri, uri)


def ask_no_git() -> None:
    """From now on MLflow asks git nothing in this process.

    It would ask about the folder of this program, and git obeys the settings of a repository that
    lies around it, which is anybody's where an environment lies in a folder that was unpacked.
    """
    known = contexts._run_context_provider_registry
    known._registry = [one for one in known if not isinstance(one, GitRunContext)]


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
    """The id of our experiment, made if absent; local stores keep its files below home.

    Raises BadInput where somebody has made it whose files would go to another host.
    """
    known = client().get_experiment_by_name(EXPERIMENT)
    if known is not None:
        _check_location(known)
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
        _check_location(known)
        return str(known.experiment_id)


def _check_location(known: Experiment) -> None:
    """Raise BadInput where the files of an experiment lie at another host's HTTP."""
    location = str(known.artifact_location)
    if urlsplit(location).scheme in ("http", "https", PROXIED) and not is_of_store(location):
        raise BadInput(
            f"the experiment '{EXPERIMENT}' of {without_password(store_uri())} keeps its files at "
            f"{cut_off(location)}, which is another host: models, reports and the password of the "
            "store would go there; have whoever looks after the store rename that experiment"
        )


def is_of_store(address: str) -> bool:
    """Whether files at an address of HTTP are asked of the store's own host: by `mlflow-artifacts:`
    without a host, or with the store's.

    >>> is_of_store("mlflow-artifacts:/1/models")
    True
    """
    asked, own = urlsplit(address), urlsplit(store_uri())
    if asked.scheme == PROXIED and not asked.netloc:
        return True
    scheme = own.scheme if asked.scheme == PROXIED else asked.scheme
    return (scheme, asked.hostname, _port(asked, scheme)) == (
        own.scheme,
        own.hostname,
        _port(own, own.scheme),
    )


def _port(address: SplitResult, scheme: str) -> int | None:
    """The port that is asked; None where it is no number, or that of no scheme we know."""
    try:
        return address.port or {"http": 80, "https": 443}.get(scheme)
    except ValueError:
        return None


def is_transient(error: BaseException) -> bool:
    """Whether an MLflow server was down or busy; not what was asked, nor a store on this disk."""
    served = store_uri().startswith(("http://", "https://"))
    return served and isinstance(error, MlflowException) and error.error_code in TRANSIENT


def store_uri() -> str:
    """The user's store, or SQLite below home, where a worker imports a flow without our command."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{home() / 'mlflow.db'}"
