"""Where everything stands: runs, champions, targets, labels that are wanted, jobs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from sfda.annotation.waiting import Waiting, waiting
from sfda.config import Config
from sfda.manifests.growing import TargetRecord
from sfda.state_folder import home
from tasks import tracking
from tasks.prefect_runtime.store_address import check_prefect_server
from tasks.tracking.registry import RegisteredModel
from tasks.tracking.runs import RunSummary

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun


class TargetStatus(Config):
    """A growing target, as the last look left it."""

    name: str
    path: str
    version: int
    adapted: int  # the version last adapted to; 0: none
    images: int


class JobStatus(Config):
    """Runs on a Prefect server by state, and those that need a person."""

    states: dict[str, int]
    failed: tuple[str, ...]  # the last ones: name and message


class Status(Config):
    """What `sfda status` tells."""

    runs: tuple[RunSummary, ...]
    models: tuple[RegisteredModel, ...]
    targets: tuple[TargetStatus, ...]
    labels_wanted: tuple[Waiting, ...]
    jobs: JobStatus | None = None


def read_status(limit: int) -> Status:
    """The last `limit` runs and all else. A Prefect server is asked where one is configured."""
    return Status(
        runs=tuple(tracking.recent_runs(limit)),
        models=tuple(tracking.registered_models()),
        targets=tuple(_targets()),
        labels_wanted=tuple(waiting()),
        jobs=_jobs() if os.environ.get("PREFECT_API_URL") else None,
    )


def _targets() -> list[TargetStatus]:
    targets = []
    for file in sorted(Path(home(), "targets").glob("*/state.json")):
        try:
            state = TargetRecord.model_validate_json(file.read_bytes())
        except ValidationError:
            continue  # the next look says so
        targets.append(
            TargetStatus(
                name=file.parent.name,
                path=state.target,
                version=state.version,
                adapted=state.adapted,
                images=len(state.marks),
            )
        )
    return targets


def _jobs() -> JobStatus:
    check_prefect_server()
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterTags
    from prefect.client.schemas.sorting import FlowRunSort

    own = FlowRunFilter(tags=FlowRunFilterTags(all_=["sfda"]))
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(
            flow_run_filter=own, sort=FlowRunSort.EXPECTED_START_TIME_DESC, limit=200
        )
    states: dict[str, int] = {}
    for run in runs:
        state = run.state_name or "Unknown"
        states[state] = states.get(state, 0) + 1
    failed = tuple(_line(run) for run in runs if run.state and run.state.is_failed())
    return JobStatus(states=dict(sorted(states.items())), failed=failed[:5])


def _line(run: FlowRun) -> str:
    message = " ".join(((run.state and run.state.message) or "").split())[:160]
    return f"{run.name}: {message}"
