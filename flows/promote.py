"""A version of a model -> the champion: an explicit decision of a person."""

from __future__ import annotations

from prefect import flow

from flows.rollback import rollback as rollback  # deployments of 0.1.0 name it here (until 2027-12)
from tasks.champion import ChampionMove, move_and_notify


@flow(name="promote", flow_run_name="promote {name} {version}")
def promote(name: str, version: str, notify: str | None = None) -> ChampionMove:
    """Make a version the champion, whatever its metrics.

    Args:
        name: a registered name
        version: the number of one of its versions
        notify: a Prefect block that tells people of it; none: nobody is told
    """
    return move_and_notify(name, version, notify)
