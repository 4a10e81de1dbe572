"""The champion before this one -> the champion again."""

from __future__ import annotations

from prefect import flow

from tasks.champion import ChampionMove, move_champion


@flow(name="rollback", flow_run_name="roll back {name}")
def rollback(name: str) -> ChampionMove:
    """Make the champion before this one the champion again."""
    return move_champion(name, None)
