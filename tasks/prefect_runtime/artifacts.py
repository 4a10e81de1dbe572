"""How far long work is, on the page of its run in Prefect."""

from __future__ import annotations

import logging
from uuid import UUID

import httpx
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.context import FlowRunContext, TaskRunContext
from prefect.exceptions import PrefectException

from tasks.prefect_runtime.tame_artifacts import tame

AWAY = (httpx.HTTPError, PrefectException)
log = logging.getLogger("sfda")


class RunPage:
    """A progress artifact of the run that this code runs in; outside of runs it does nothing.

    A server that is away for a while is no reason to stop the work.
    """

    def __init__(self, title: str) -> None:
        self.title = tame(title)
        self.artifact: UUID | None = None
        self.inside = bool(FlowRunContext.get() or TaskRunContext.get())

    def show(self, share: float) -> None:
        """So much of the work is done, 0 to 1."""
        if not self.inside:
            return
        percent = 100 * min(max(share, 0.0), 1.0)
        try:
            if self.artifact is None:
                made = create_progress_artifact(percent, key="progress", description=self.title)
                self.artifact = made if isinstance(made, UUID) else None
            else:
                update_progress_artifact(self.artifact, percent)
        except AWAY as error:
            log.debug("no progress on the page of the run: %s", error)
