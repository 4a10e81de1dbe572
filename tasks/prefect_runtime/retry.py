"""Which failures of a stage another try may mend: of servers and killed processes, not of input."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import httpx
import requests

from sfda.sandbox.process import ProcessDied
from tasks import tracking

if TYPE_CHECKING:
    from prefect.client.schemas.objects import State

PASSING = (requests.ConnectionError, requests.Timeout, httpx.TransportError, ProcessDied)
WAITS = [2, 10, 30, 60]  # seconds before each further try


def passes_by(_task: object, _run: object, state: State[Any]) -> bool:
    """Whether a stage failed for a server that did not answer, or for a process that was killed.

    Bad input, a loss that is not finite or a bug would fail again.
    """
    error = state.result(raise_on_failure=False)
    return any(_passes(one) for one in _chain(error))


def _passes(error: BaseException) -> bool:
    if isinstance(error, PASSING):
        return True
    return tracking.is_transient(error)


def _chain(error: object) -> Iterator[BaseException]:
    """An error and what it was raised from."""
    while isinstance(error, BaseException):
        yield error
        error = error.__cause__


SERVERS: dict[str, Any] = {
    "retries": len(WAITS),
    "retry_delay_seconds": WAITS,
    "retry_jitter_factor": 0.2,
    "retry_condition_fn": passes_by,
}
