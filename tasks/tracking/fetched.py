"""Models of the registry as folders on this disk: where they lie, or a copy."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repo import ArtifactRepository
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.store.artifact.ftp_artifact_repo import FTPArtifactRepository
from mlflow.store.artifact.http_artifact_repo import HttpArtifactRepository
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository
from mlflow.store.artifact.sftp_artifact_repo import SFTPArtifactRepository

from sfda.documents import cut_off
from sfda.errors import BadInput
from sfda.manifests.digests import key_of
from sfda.state_folder import home
from tasks.tracking.store import is_of_store, is_transient, store_uri

MODEL_FILE = "MLmodel"  # of every model of MLflow


def fetch(uri: str) -> Path:
    """The local folder of a model at `models:/...` or `runs:/...`, fetched if remote."""
    local = home() / "fetched" / key_of(store=store_uri(), uri=uri)[:24]
    try:
        if local.is_dir():
            return local
        if store_uri().startswith("sqlite:"):
            return _folder_here(uri)
        local.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=local.parent, prefix=".fetching.") as beside:
            part = _copied(uri, Path(beside, "model"))
            try:
                part.rename(local)
            except OSError:
                if not local.is_dir():  # else another process was faster
                    raise
        return local
    except (MlflowException, OSError, ValueError, ImportError) as error:
        if is_transient(error):
            raise
        raise BadInput(f"no model at {uri}: {str(error).splitlines()[0]}") from error


def _repository(uri: str) -> ArtifactRepository:
    """Whatever reads the files of a model, below what only finds out where they are."""
    repository = get_artifact_repository(uri, tracking_uri=store_uri())
    while inner := getattr(repository, "repo", None):
        repository = inner
    return repository


def _folder_here(uri: str) -> Path:
    """Where a model of a store on this machine lies. Raises BadInput where its files are said to be
    elsewhere: a row may name any address, and it would be asked.
    """
    repository = _repository(uri)
    if not isinstance(repository, LocalArtifactRepository):
        raise _too_far(uri, repository)
    if uri.startswith("models:/"):
        return Path(repository.download_artifacts(""))
    # what a run has logged as a model is with the run, or with the model
    return Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, tracking_uri=store_uri()))


def _too_far(uri: str, repository: ArtifactRepository) -> BadInput:
    """The files of a model are said to be where nobody is asked for them."""
    where = getattr(repository, "artifact_uri", "another place")
    return BadInput(
        f"{uri} is said to lie at {cut_off(str(where))}, which is not asked: "
        "fetch it yourself, and name its folder"
    )


def _copied(uri: str, into: Path) -> Path:
    """A copy of a model that a server has; it may name a folder of this machine, which stays as it
    is, and is copied where a model lies there alone. Raises BadInput, MlflowException or OSError.

    Whoever may write a row of a store may name any address in it, and MLflow would send that one
    the password of the store: by HTTP the store's own host alone is asked.
    """
    repository = _repository(uri)
    if isinstance(repository, FTPArtifactRepository | SFTPArtifactRepository) or (
        isinstance(repository, HttpArtifactRepository) and not is_of_store(repository.artifact_uri)
    ):
        raise _too_far(uri, repository)
    if not isinstance(repository, LocalArtifactRepository):
        into.mkdir()
        return Path(
            mlflow.artifacts.download_artifacts(
                artifact_uri=uri, dst_path=str(into), tracking_uri=store_uri()
            )
        )
    source = Path(repository.artifact_dir)
    if not (source / MODEL_FILE).is_file():
        raise BadInput(f"{uri} is said to lie in {source}, where no model of MLflow is")
    return Path(shutil.copytree(source, into, symlinks=True))


def fetch_bundle(uri: str) -> Path:
    """The folder of the bundle at such an address. Raises BadInput, also where there is none."""
    specs = sorted(fetch(uri).rglob("spec.json"))
    if not specs:
        raise BadInput(
            f"{uri} holds no bundle of sfda; import its weights with `sfda import-model`"
        )
    return specs[0].parent
