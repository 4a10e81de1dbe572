"""Prefect's rows of flow runs that are over: their task runs, states, logs and artifacts.

Events go by Prefect's own retention, a week. A server deletes the logs of a flow run some time
after it; those that stay without one it deletes once a day (`DEFAULTS` in `home.py`).
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Collection, Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from sfda.retention.policy import RetentionPolicy
from tasks.prefect_runtime.stated import URL

if TYPE_CHECKING:
    from uuid import UUID

    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun

ENDED_STATES = ("COMPLETED", "FAILED", "CANCELLED", "CRASHED")
RUNS_A_PAGE = 200
OLD_RUNS = f"""
SELECT count(*) FROM (
    SELECT flow_run.end_time AS ended, row_number() OVER (
        PARTITION BY flow_id ORDER BY start_time DESC
    ) AS position
    FROM flow_run JOIN flow ON flow.id = flow_run.flow_id
    WHERE state_type IN {ENDED_STATES} AND flow.name IN (SELECT value FROM json_each(?))
) WHERE ended < ? AND position > ?
"""


def old_flow_runs(
    client: SyncPrefectClient, policy: RetentionPolicy, flows: Collection[str], now: float
) -> list[FlowRun]:
    """Runs of these flows that are over and old, but for the newest of each flow."""
    newest: dict[UUID, int] = {}
    cutoff, old = policy.cutoff(now), []
    for run in _ended(client, flows):
        newest[run.flow_id] = newest.get(run.flow_id, 0) + 1
        ended = run.end_time
        if ended and ended.timestamp() < cutoff and newest[run.flow_id] > policy.keep:
            old.append(run)
    return old


def delete_flow_runs(client: SyncPrefectClient, runs: Collection[FlowRun]) -> None:
    """Delete them, each after its artifacts: a kill leaves runs that are old again."""
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
    from prefect.exceptions import ObjectNotFound

    for run in runs:
        of_run = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run.id]))
        try:
            while artifacts := client.read_artifacts(artifact_filter=of_run, limit=RUNS_A_PAGE):
                for artifact in artifacts:
                    client.delete_artifact(artifact.id)
            client.delete_flow_run(run.id)
        except ObjectNotFound:
            continue  # another has deleted it


def count_old_flow_runs(
    policy: RetentionPolicy, flows: Collection[str], home: Path, now: float
) -> int:
    """How many `old_flow_runs` would be there, without a server of our own: it is read in its
    database, nothing is written.
    """
    if os.environ.get(URL):
        from prefect.client.orchestration import get_client

        with get_client(sync_client=True) as client:
            return len(old_flow_runs(client, policy, flows, now))
    file = home / "prefect" / "prefect.db"
    if not file.is_file() or file.is_symlink():
        return 0
    import json

    cutoff = datetime.fromtimestamp(policy.cutoff(now), UTC).strftime("%Y-%m-%d %H:%M:%S.%f")
    alone = "" if Path(f"{file}-wal").exists() else "&immutable=1"
    with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro{alone}", uri=True)) as database:
        try:
            row = database.execute(OLD_RUNS, (json.dumps(sorted(flows)), cutoff, policy.keep))
            return int(row.fetchone()[0])
        except sqlite3.Error:  # of a database that was not made yet
            return 0


def _ended(client: SyncPrefectClient, flows: Collection[str]) -> Iterator[FlowRun]:
    """Runs that are over, the newest first."""
    from prefect.client.schemas.filters import (
        FlowFilter,
        FlowFilterName,
        FlowRunFilter,
        FlowRunFilterState,
        FlowRunFilterStateType,
    )
    from prefect.client.schemas.objects import StateType
    from prefect.client.schemas.sorting import FlowRunSort

    over = FlowRunFilterStateType(any_=[StateType(name) for name in ENDED_STATES])
    offset = 0
    while True:
        page = client.read_flow_runs(
            flow_filter=FlowFilter(name=FlowFilterName(any_=list(flows))),
            flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=over)),
            sort=FlowRunSort.START_TIME_DESC,
            limit=RUNS_A_PAGE,
            offset=offset,
        )
        yield from page
        if len(page) < RUNS_A_PAGE:
            return
        offset += RUNS_A_PAGE
