"""How often a flow run may be started again after it crashed."""

from __future__ import annotations

from typing import Any

MOST = 3


class TooManyStarts(RuntimeError):
    """A run whose process dies every time: something kills it that another start does not mend."""


def refuse_endless(run: Any) -> None:
    """Raise TooManyStarts where this is one start more than `MOST` of one flow run.

    `run` is `prefect.runtime.flow_run`. A crash is taken up again by an automation; what has died
    so often (out of memory, say) would go on for ever.
    """
    count = int(run.run_count or 0)
    if count > MOST:
        raise TooManyStarts(
            f"this run has died {count - 1} times; its folder below $SFDA_HOME/logs and the "
            "worker's log say why; start it anew when that is mended"
        )
