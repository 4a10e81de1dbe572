"""Which failures of a stage another try may mend: those of servers, never those of input."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import requests

from tasks import tracking

WAITS = [2, 10, 30, 60]  # seconds before each further try


def passes_by(_task: Any, _run: Any, state: Any) -> bool:
    """Whether a stage failed for a server that did not answer, or was too busy.

    Bad input, a loss that is not finite, a bug or a lack of memory would fail again.
    """
    error = state.result(raise_on_failure=False)
    return any(_of_a_server(one) for one in _chain(error))


def _of_a_server(error: BaseException) -> bool:
    if isinstance(error, (requests.ConnectionError, requests.Timeout, httpx.TransportError)):
        return True
    return tracking.is_transient(error)


def _chain(error: Any) -> Iterator[BaseException]:
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
