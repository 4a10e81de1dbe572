"""Versions and runs that the store may lose, and how it loses them: rows and files."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from mlflow.entities import LoggedModel, Run, ViewType
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from sfda.documents import parse_json
from sfda.retention.home_files import delete_folder, top_above
from sfda.retention.policy import RetentionPolicy
from sfda.state_folder import state_folder
from tasks import tracking
from tasks.tracking.registry import can_be_named
from tasks.tracking.runs import RUN_FOLDER
from tasks.tracking.store import EXPERIMENT, client, store_uri

log = logging.getLogger("sfda")
OVER = ("FINISHED", "FAILED")  # what no later start of the same work takes up
ROWS_A_PAGE = 200
ARTIFACTS = "mlartifacts"  # below the home


class StoreItems(NamedTuple):
    """What of the store is old, and of what stays what that needs."""

    versions: tuple[ModelVersion, ...]
    models: tuple[LoggedModel, ...]  # files of versions
    runs: tuple[Run, ...]
    sources: frozenset[str]  # addresses and paths that remaining versions and runs come from
    run_folders: frozenset[str]  # of unfinished runs, below runs/
    elsewhere: int = 0  # runs and versions that are old, whose files lie in another home

    @property
    def folders(self) -> tuple[Path, ...]:
        """Where their files lie, of those that lie on this machine."""
        addresses = [model.artifact_location for model in self.models]
        addresses += [run.info.artifact_uri for run in self.runs]
        return tuple(folder for folder in map(_folder, addresses) if folder)


def old_items(policy: RetentionPolicy, needed: Collection[str], now: float) -> StoreItems:
    """What may go. `needed` are addresses that somebody refers to, as `models:/scanner/3`."""
    cutoff = 1000 * policy.cutoff(now)
    everyone = [v for name in _names() for v in _versions(name)]
    stays = _that_stay(everyone, policy, cutoff, needed)
    old = tuple(v for v in everyone if _uri(v) not in stays)
    remaining = [v for v in everyone if _uri(v) in stays]
    runs = _all_runs()
    unfinished = [run for run in runs if run.info.status not in OVER]
    busy = {run.info.run_id for run in unfinished} | {v.run_id for v in remaining}
    held = busy | {uri.removeprefix("runs:/").partition("/")[0] for uri in needed}
    newest = _newest(runs, policy.keep)
    models = list(_orphans(remaining, busy, cutoff))
    old_runs = [
        run
        for run in runs
        if run.info.run_id not in held | newest
        and run.info.status in OVER
        and (run.info.end_time or run.info.start_time) < cutoff
    ]
    own_models = [m for m in models if _is_ours(m.artifact_location, "models", m.model_id)]
    theirs = {f"models:/{model.model_id}" for model in models if model not in own_models}
    own_runs = [run for run in old_runs if _is_ours(run.info.artifact_uri, run.info.run_id)]
    return StoreItems(
        versions=tuple(v for v in old if v.source not in theirs),
        models=tuple(own_models),
        runs=tuple(own_runs),
        elsewhere=len(theirs) + len(old_runs) - len(own_runs),
        sources=frozenset(_sources(remaining, [run for run in runs if run not in old_runs])),
        run_folders=frozenset(
            run.data.tags[RUN_FOLDER] for run in unfinished if RUN_FOLDER in run.data.tags
        ),
    )


def _sources(versions: Iterable[ModelVersion], runs: Iterable[Run]) -> Iterator[str]:
    """Models that versions were made from, and manifests that runs read."""
    yield from (v.tags["source"] for v in versions if v.tags.get("source"))
    for run in runs:
        for one in run.inputs.dataset_inputs if run.inputs else ():
            with suppress(ValueError):
                address = parse_json(one.dataset.source.encode())
                if isinstance(address, dict) and isinstance(address.get("uri"), str):
                    yield address["uri"]


def delete_items(items: StoreItems) -> None:
    """Delete them, as `mlflow gc` does: a kill leaves what the next call takes for old again.

    On a server the rows of runs and files are marked as deleted, for its own `mlflow gc`.
    """
    for version in items.versions:
        _gone(partial(client().delete_model_version, version.name, version.version))
    for model in items.models:
        _delete_model(model)
    for run in items.runs:
        _delete_run(run)


def _that_stay(
    versions: list[ModelVersion], policy: RetentionPolicy, cutoff: float, needed: Collection[str]
) -> set[str]:
    """Addresses of versions that an alias, the history of champions, a document or the policy
    keeps, and of those that they were made from.
    """
    known = {_uri(v): v for v in versions}
    stays = set(known) & set(needed)
    for name in {v.name for v in versions}:
        own = sorted((v for v in versions if v.name == name), key=lambda v: -int(v.version))
        stays |= {_uri(v) for v in own[: policy.keep]}
        stays |= {f"models:/{name}/{number}" for number in tracking.champions(name)}
        aliases = client().get_registered_model(name).aliases
        stays |= {f"models:/{name}/{number}" for number in aliases.values()}
    stays |= {uri for uri, v in known.items() if v.creation_timestamp >= cutoff}
    waiting = [uri for uri in stays if uri in known]
    while waiting:
        source = known[waiting.pop()].tags.get("source", "")
        if source in known and source not in stays:
            stays.add(source)
            waiting.append(source)
    return stays


def _newest(runs: list[Run], most: int) -> set[str]:
    """The newest runs of each target; of those without one, of each name."""
    groups: dict[str, list[Run]] = {}
    for run in sorted(runs, key=lambda run: -run.info.start_time):
        what = run.data.params.get("target") or run.info.run_name or ""
        groups.setdefault(what, []).append(run)
    return {run.info.run_id for group in groups.values() for run in group[:most]}


def _orphans(
    remaining: list[ModelVersion], busy: set[str | None], cutoff: float
) -> Iterator[LoggedModel]:
    """Files of versions that are gone, or that never came to be."""
    sources = {v.source for v in remaining}
    for model in _all_models():
        if f"models:/{model.model_id}" in sources or model.creation_timestamp >= cutoff:
            continue
        if model.source_run_id not in busy or _is_version_gone(model, remaining):
            yield model


def _is_version_gone(model: LoggedModel, remaining: list[ModelVersion]) -> bool:
    """Whether a run that stays because of another version has files of an old one, too."""
    return any(v.run_id == model.source_run_id for v in remaining)


def _delete_model(model: LoggedModel) -> None:
    local = _local_store()
    if local is None:
        _gone(lambda: client().delete_logged_model(model.model_id))
        return
    if folder := _folder(model.artifact_location):
        delete_folder(state_folder(), folder)
    _gone(lambda: local._hard_delete_logged_model(model.model_id))


def _delete_run(run: Run) -> None:
    local, run_id = _local_store(), run.info.run_id
    if local is None:
        _gone(lambda: client().delete_run(run_id))
        return
    if folder := _folder(run.info.artifact_uri):
        delete_folder(state_folder(), folder)
    _gone(lambda: local._hard_delete_run(run_id))


def _local_store() -> Any:
    """MLflow's own store where it is an SQLite file; None on a server, which deletes no rows."""
    return client()._tracking_client.store if store_uri().startswith("sqlite:") else None


def _gone(delete: Callable[[], object]) -> None:
    """Delete something that may be gone already."""
    try:
        delete()
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise


def _folder(address: str | None) -> Path | None:
    """The folder of one run's or version's own at an address of files on this machine."""
    parts = urlsplit(address or "")
    if parts.scheme not in ("file", "") or not parts.path:
        return None
    folder = Path(unquote(parts.path))
    return folder.parent if folder.name == "artifacts" else folder


def _is_ours(address: str | None, *names: str) -> bool:
    """Whether these files lie where we put those of that name, or on no disk of this machine: a
    store may be shared with other homes, and rows may say anything.
    """
    folder = _folder(address)
    if folder is None:
        return True
    top = top_above(state_folder(), folder)
    return top is not None and folder == top.joinpath(ARTIFACTS, *names)


def _uri(version: ModelVersion) -> str:
    return f"models:/{version.name}/{version.version}"


def _names() -> list[str]:
    pages = _pages(lambda token: client().search_registered_models(page_token=token))
    return [model.name for model in pages if can_be_named(model.name)]


def _versions(name: str) -> list[ModelVersion]:
    """Of one registered name, with their tags."""
    where = f"name = '{name}'"
    return list(
        _pages(
            lambda token: client().search_model_versions(
                where, max_results=ROWS_A_PAGE, page_token=token
            )
        )
    )


def _all_models() -> list[LoggedModel]:
    if not (ids := _experiments()):
        return []
    return list(
        _pages(lambda token: client().search_logged_models(experiment_ids=ids, page_token=token))
    )


def _experiments() -> list[str]:
    """Ours, if it was made."""
    known = client().get_experiment_by_name(EXPERIMENT)
    return [str(known.experiment_id)] if known else []


def _all_runs() -> list[Run]:
    """Of our experiment, those in MLflow's trash as well."""
    if not (ids := _experiments()):
        return []
    return list(
        _pages(
            lambda token: client().search_runs(
                ids, run_view_type=ViewType.ALL, max_results=ROWS_A_PAGE, page_token=token
            )
        )
    )


def _pages(read: Callable[[str | None], Any]) -> Iterator[Any]:
    """All entries of a list that comes in parts."""
    token: str | None = None
    while True:
        page: Iterable[Any] = read(token)
        yield from page
        token = getattr(page, "token", None)
        if not token:
            return
