"""What strangers can make a server write: everybody on this machine may connect to its port.

A call that no server understands is a line or a traceback in its log, and a disk is full some day.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

FULL, A_SECOND = 2**20, 100.0  # characters that may be written at once, and that come back
TRACEBACK = 8000  # characters, about those of a server's
WRITE_OF_CALLS = ("uvicorn.error", "prefect.server")  # loggers


class BoundedLog(logging.Filter):
    """Lets a megabyte through at once, and some 9 MB a day; of what is left out it is said once.

    `now` tells the time in seconds.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self.now, self.at, self.left, self.is_open = now, now(), float(FULL), True

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record is written; the first that is not becomes the word that says so."""
        now = self.now()
        self.left = min(FULL, self.left + A_SECOND * (now - self.at))
        self.at = now
        size = len(record.getMessage()) + (TRACEBACK if record.exc_info else 0)
        was_open, self.is_open = self.is_open, size <= self.left
        if self.is_open:
            self.left -= size
        elif was_open:
            record.msg, record.args, record.exc_info = (
                "too much to log: the rest is left out",
                (),
                None,
            )
        return self.is_open or was_open


def bound_log() -> None:
    """Bound what this process writes of calls, all loggers together."""
    bound = BoundedLog()
    for name in WRITE_OF_CALLS:
        logging.getLogger(name).addFilter(bound)
