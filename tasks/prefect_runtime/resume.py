"""Suspended runs, started again where their answers have come."""

from __future__ import annotations

import json
import logging
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

from sfda.annotation.waiting import forget, waiting
from sfda.errors import BadInput

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

log = logging.getLogger("sfda")
PATIENCE, PAUSE = 120.0, 1.0  # seconds until a run that is under way waits again; between looks
SUSPENDED = "suspended-"  # how Prefect names what a suspended run asks for, and its answers
MOST_INPUTS = 1000  # inputs of a run that are read


def go_on(request: Path, manifest: Path) -> str | None:
    """Let the run that waits for this request go on with the manifest; its id, or None.

    Raises BadInput where there is such a run and it cannot be resumed: no Prefect server is
    configured, or it does not answer, or the run has ended. The request then still waits.
    """
    run = next((one.flow_run_id for one in waiting() if Path(one.folder) == request.absolute()), "")
    if run:
        _resume_on_server(run, manifest)
    forget(request)
    return run or None


def _resume_on_server(run: str, manifest: Path) -> None:
    if not os.environ.get("PREFECT_API_URL"):
        raise BadInput(
            f"{manifest} is written, but the run that waits for it is on another Prefect server; "
            f"set PREFECT_API_URL, or resume run {run} on its page with that path"
        )
    import httpx
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound

    try:
        with get_client(sync_client=True) as client:
            resume(client, UUID(run), str(manifest.absolute()))
    except (BadInput, ObjectNotFound, httpx.HTTPError) as error:
        words = " ".join(str(error).split())
        raise BadInput(f"{manifest} is written, but run {run} does not go on: {words}") from None


def resume(
    client: SyncPrefectClient,
    run: UUID,
    answers: str,
    *,
    patience: float = PATIENCE,
    pause: float = PAUSE,
) -> None:
    """Resume a run with the path of its answers. Raises BadInput where it waits no more.

    A client repeats a request whose answer is slow, also one that was heard: a run that was resumed
    with just these answers is one that goes on. One that is under way, as after answers that it did
    not take, or because its machine died, is resumed once it waits again.
    """
    end, refusal = time.monotonic() + patience, ""
    while True:
        state = client.read_flow_run(run).state
        if state is not None and state.is_paused():
            before, refusal = refusal, _ask_to_resume(client, run, answers)
            if not refusal:
                return
        elif _was_resumed(client, run, answers):
            return
        elif state is not None and state.is_final() and not state.is_crashed():
            raise BadInput(f"it is {str(state.name).lower()} and does not wait any more")
        else:  # a crashed run is started again
            name = str(state.name).lower() if state else "not begun"
            before, refusal = refusal, f"it does not wait, it is {name}"
        if refusal != before:
            log.info("run %s: %s; it is asked again", run, refusal)
        if time.monotonic() > end:
            raise BadInput(f"{refusal}; resume it on its page with that path")
        time.sleep(pause)


def _ask_to_resume(client: SyncPrefectClient, run: UUID, answers: str) -> str:
    """Why not yet; empty once it is accepted. Raises BadInput where it is too late."""
    result = client.resume_flow_run(run, run_input={"answers": answers})
    if result.status.value == "ACCEPT":
        return ""
    if result.state is not None and result.state.is_final():
        raise BadInput(f"it is {str(result.state.name).lower()} and cannot be resumed")
    return str(getattr(result.details, "reason", None) or result.status.value)


def _was_resumed(client: SyncPrefectClient, run: UUID, answers: str) -> bool:
    """Whether this run was ever resumed with these answers."""
    for one in client.filter_flow_run_input(run, SUSPENDED, MOST_INPUTS, set()):
        if one.key.endswith("-response"):
            values = json.loads(one.value)
            if isinstance(values, dict) and values.get("answers") == answers:
                return True
    return False
