"""The champion's moves that a person makes: promote a version, go back to the one before."""

from __future__ import annotations

from prefect import flow, task

from sfda.config import Config
from tasks import register


class PromoteResult(Config):
    """Who reigns now and who did before."""

    name: str
    version: str
    previous: str | None


@task(name="promotion")
def _move(name: str, version: str | None) -> PromoteResult:
    found, before = register.promote(name, version) if version else register.rollback(name)
    return PromoteResult(name=name, version=found.version, previous=before)


@flow(name="promote", flow_run_name="promote {name} {version}")
def promote(name: str, version: str) -> PromoteResult:
    """Let a version reign, whatever its metrics: an explicit decision."""
    return _move(name, version)


@flow(name="rollback", flow_run_name="roll back {name}")
def rollback(name: str) -> PromoteResult:
    """Let the champion before this one reign again."""
    return _move(name, None)
