"""The champion before this one -> the champion again."""

from __future__ import annotations

from prefect import flow

from tasks.champion import ChampionMove, move_and_notify


@flow(name="rollback", flow_run_name="roll back {name}")
def rollback(name: str, notify: str | None = None) -> ChampionMove:
    """Make the champion before this one the champion again.

    Args:
        name: a registered name
        notify: a Prefect block that tells people of it; none: nobody is told
    """
    return move_and_notify(name, None, notify)
