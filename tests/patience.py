"""Asking again: what a server records some time after the fact, on a busy machine later still."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Answer = TypeVar("Answer")
DEADLINE = 300.0  # seconds; none takes so long unless something is wrong


def eventually(
    ask: Callable[[], Answer],
    fits: Callable[[Answer], object] = bool,
    *,
    seconds: float = DEADLINE,
    every: float = 0.2,
) -> Answer:
    """What `ask` gives once that fits; at the deadline what it gives then, for the test to show."""
    end = time.monotonic() + seconds
    while not fits(answer := ask()) and time.monotonic() < end:
        time.sleep(every)
    return answer
