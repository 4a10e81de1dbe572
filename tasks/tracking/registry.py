"""Registered models: versions, aliases, and the history of champions."""

from __future__ import annotations

import json
import tempfile
from importlib.metadata import version as installed
from pathlib import Path

import mlflow
import numpy as np
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types import Schema, TensorSpec

from sfda.config import Config
from sfda.documents import cut_off
from sfda.errors import BadInput
from sfda.refs import Version
from sfda.state_folder import close_copies
from tasks.tracking.code_archive import LOADER, write_code
from tasks.tracking.store import client, store_uri

LONGEST_MODEL_NAME = 200  # characters of a model's name
WORK = "sfda.work"  # tag of a version: a digest of the work that made it
HISTORY = "sfda.champions"  # tag of a registered model: its champions so far, oldest first
PACKAGES = (
    "torch",
    "torchvision",
    "timm",
    "numpy",
    "pillow",
    "pydantic",
    "pyyaml",
    "safetensors",
    "jaxtyping",
)


class RegisteredModel(Config):
    """A registered model and who of its versions is what."""

    name: str
    versions: int
    champion: str | None
    candidate: str | None
    verdict: str | None  # on the candidate


def registered_models() -> list[RegisteredModel]:
    """All registered models that can be named, with the versions that carry our aliases."""
    models = []
    for name in sorted(m.name for m in client().search_registered_models()):
        if not can_be_named(name):
            continue
        known = versions(name)
        held = {alias: v for v in known for alias in v.aliases}
        champion, candidate = held.get("champion"), held.get("candidate")
        models.append(
            RegisteredModel(
                name=name,
                versions=len(known),
                champion=champion.version if champion else None,
                candidate=candidate.version if candidate else None,
                verdict=version_tags(candidate).get("verdict") if candidate else None,
            )
        )
    return models


def version_of_work(name: str, tags: dict[str, str]) -> Version | None:
    """The version of `name` that the same work has made, its tags brought up to date; else None."""
    check_name(name)
    same = f"name = '{name}' AND tags.`{WORK}` = '{tags[WORK]}'"
    for known in map(_version, client().search_model_versions(same, max_results=1)):
        tag_version(known, tags)
        return known
    return None


def register_bundle(
    run_id: str,
    bundle: Path,
    name: str,
    *,
    depth: int,
    tags: dict[str, str],
    needs: tuple[str, ...] = (),
) -> Version:
    """Log a bundle as a pyfunc model of the run and register it under `name`. `needs` are packages
    that it needs beyond those of all models.
    `tags["sha256"]` is the bundle's digest: a run that has registered these weights already gives
    that version back, so a job that was killed after this step registers nothing twice.
    """
    check_name(name)
    for known in client().search_model_versions(f"name = '{name}' AND run_id = '{run_id}'"):
        if known.tags.get("sha256") == tags["sha256"]:
            tag_version(_version(known), tags)
            return _version(known)
    with tempfile.TemporaryDirectory() as code, mlflow.start_run(run_id=run_id):
        logged = mlflow.pyfunc.log_model(
            name="adapted",
            loader_module=LOADER,
            data_path=str(bundle),
            code_paths=write_code(Path(code)),
            signature=ModelSignature(
                inputs=Schema([TensorSpec(np.dtype("uint8"), (-1, -1, -1, depth))])
            ),
            pip_requirements=[f"{package}=={installed(package)}" for package in PACKAGES + needs],
        )
    close_copies(logged.artifact_path)  # of the code
    # that finished the run; killed from here on it must still be found, with its version
    client().update_run(run_id, status="RUNNING")
    return _only_one(
        _version(mlflow.register_model(logged.model_uri, name, tags=tags)), run_id, tags
    )


def _only_one(made: Version, run_id: str, tags: dict[str, str]) -> Version:
    """The first version of this run with these weights; others are deleted.

    A server that died after it had made one, and before it answered, was asked again.
    """
    known = client().search_model_versions(f"name = '{made.name}' AND run_id = '{run_id}'")
    same = sorted(
        (v for v in known if v.tags.get("sha256") == tags["sha256"]), key=lambda v: int(v.version)
    )
    for double in same[1:]:
        client().delete_model_version(double.name, double.version)
    return _version(same[0]) if same else made


def check_name(name: str) -> None:
    """Raise BadInput for a name that the registry would not take."""
    if not can_be_named(name):
        raise BadInput(
            f"'{cut_off(name)}' cannot name a model; use letters, digits, '-', '_' and '.'"
        )


def can_be_named(name: str) -> bool:
    """Whether our commands can name a model so; other programs may call theirs otherwise."""
    odd = not name.isprintable() or len(name) > LONGEST_MODEL_NAME
    return not (not name or odd or any(c in name for c in "/:@'\"`") or name != name.strip())


def _version(entry: ModelVersion) -> Version:
    return Version(
        name=entry.name,
        version=str(entry.version),
        uri=f"models:/{entry.name}/{entry.version}",
        aliases=tuple(entry.aliases or ()),
    )


def versions(name: str) -> list[Version]:
    """All versions of a model, the newest first; empty where there is no such model."""
    check_name(name)
    entries = client().search_model_versions(f"name = '{name}'")
    held = client().get_registered_model(name).aliases if entries else {}  # a search tells none
    known = [
        _version(v).model_copy(
            update={"aliases": tuple(sorted(a for a in held if str(held[a]) == str(v.version)))}
        )
        for v in entries
    ]
    return sorted(known, key=lambda v: -int(v.version))


def version_tags(version: Version) -> dict[str, str]:
    """The tags of a version."""
    return dict(client().get_model_version(version.name, version.version).tags)


def tag_version(version: Version, tags: dict[str, str]) -> None:
    """Set tags of a version."""
    for key, value in tags.items():
        client().set_model_version_tag(version.name, version.version, key, value)


def describe_version(version: Version, text: str) -> None:
    """Set what the page of a version says of it, as markdown."""
    client().update_model_version(version.name, version.version, description=text)


def by_alias(name: str, alias: str) -> Version | None:
    """The version that carries an alias, or None."""
    check_name(name)
    try:
        return _version(client().get_model_version_by_alias(name, alias))
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise  # a server that does not answer is no evidence that there is no champion


def set_alias(version: Version, alias: str) -> None:
    """Move an alias to this version."""
    client().set_registered_model_alias(version.name, alias, version.version)


def stated_champions(name: str) -> list[str]:
    """The history alone, which a kill may have left behind its alias, or before it."""
    text = client().get_registered_model(name).tags.get(HISTORY, "[]")
    return [str(version) for version in json.loads(text)]


def champions(name: str) -> list[str]:
    """Versions that were champion, in order; the last one is it now.

    The alias is the truth: where it was moved by hand, or a job was killed between the alias and
    the history, the version it names is put last.
    """
    history = stated_champions(name)
    champion = by_alias(name, "champion")
    if champion and history[-1:] != [champion.version]:
        history.append(champion.version)
    return history


def find_version(name: str, version: str) -> Version:
    """A registered version; BadInput names what there is instead."""
    known = versions(name)
    for entry in known:
        if entry.version == str(version):
            return entry
    if not known:
        raise BadInput(f"no model '{name}' in {store_uri()}; {_names()}")
    raise BadInput(
        f"model '{name}' has no version {version}; there are "
        + ", ".join(v.version for v in reversed(known))
    )


def _names() -> str:
    known = sorted(m.name for m in client().search_registered_models())
    return f"there are {', '.join(known)}" if known else "the registry is empty"


def canonical(uri: str) -> str:
    """An address without an alias: `models:/digits@champion` becomes `models:/digits/3`.

    Raises BadInput for a model, version or alias that is not there.
    """
    if not uri.startswith("models:/"):
        return uri
    name, at, alias = uri.removeprefix("models:/").partition("@")
    if at:
        model_version = by_alias(name, alias)
        if model_version is None:
            known = versions(name)
            held = sorted({a for v in known for a in v.aliases})
            what = f"its aliases are {', '.join(held) or 'none'}" if known else _names()
            raise BadInput(f"no model at {uri}: {what}")
        return model_version.uri
    name, _, version = name.partition("/")
    if not version:
        raise BadInput(f"{uri} names no version; say models:/{name}@champion or models:/{name}/1")
    return find_version(name, version).uri
