"""A version of a model -> the champion: an explicit decision of a person."""

from __future__ import annotations

from prefect import flow

from flows.rollback import rollback as rollback  # deployments of 0.1.0 name it here (until 2027-12)
from tasks.champion import ChampionMove, move_champion


@flow(name="promote", flow_run_name="promote {name} {version}")
def promote(name: str, version: str) -> ChampionMove:
    """Make a version the champion, whatever its metrics."""
    return move_champion(name, version)
