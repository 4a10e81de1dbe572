"""Suspended runs, started again where their answers have come."""

from __future__ import annotations

import os
from pathlib import Path
from uuid import UUID

from sfda.annotation.waiting import forget
from sfda.errors import BadInput


def go_on(request: Path, manifest: Path) -> str | None:
    """Let the run that waits for this request go on with the manifest; its id, or None.

    Raises BadInput where there is such a run and no Prefect server is configured.
    """
    waits = forget(request)
    if waits is None or waits.flow_run_id is None:
        return None
    if not os.environ.get("PREFECT_API_URL"):
        raise BadInput(
            f"{manifest} is written, but the run that waits for it is on another Prefect server; "
            f"set PREFECT_API_URL, or resume run {waits.flow_run_id} on its page with that path"
        )
    from prefect.exceptions import FlowPauseTimeout, NotPausedError, ObjectNotFound
    from prefect.flow_runs import resume_flow_run

    try:
        resume_flow_run(UUID(waits.flow_run_id), run_input={"answers": str(manifest.absolute())})
    except (FlowPauseTimeout, NotPausedError, ObjectNotFound) as error:
        raise BadInput(
            f"{manifest} is written, but run {waits.flow_run_id} does not wait any more: {error}"
        ) from None
    return waits.flow_run_id
