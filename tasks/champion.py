"""Which version is champion: every move of it, one at a time, and the history of champions."""

from __future__ import annotations

import hashlib
from contextlib import AbstractContextManager

from prefect import task

from sfda.config import Config
from sfda.decision.gate import extended
from sfda.errors import BadInput
from sfda.refs import Version
from sfda.state_folder import home, one_at_a_time
from tasks import tracking
from tasks.prefect_runtime.events import announce_promotion
from tasks.prefect_runtime.notify import check_block, notify_verdict


def promotions_of(name: str) -> AbstractContextManager[object]:
    """One promotion of a registered name at a time, on this machine."""
    digest = hashlib.sha256(name.encode()).hexdigest()[:16]
    return one_at_a_time(home() / "promotions" / digest)


def make_champion(version: Version) -> str | None:
    """Make a version champion, which Prefect's server is told of; the number of the one before."""
    history = tracking.champions(version.name)
    before = history[-1] if history else None
    tracking.set_champion(version, extended(history, version.version))
    if before != version.version:
        announce_promotion(version, before)
    return before


def number_of(version: Version | None) -> str | None:
    """Its number, if there is one."""
    return version.version if version else None


def champion_if_first(version: Version) -> bool:
    """A first version of a name becomes champion: there is nothing it could be worse than."""
    if tracking.by_alias(version.name, "champion"):
        return False
    make_champion(version)
    return True


class ChampionMove(Config):
    """Which version is champion now, and which was before."""

    name: str
    version: str
    previous: str | None

    @property
    def text(self) -> str:
        """In words."""
        before = f", version {self.previous} before" if self.previous else ""
        return f"{self.name}: champion is version {self.version}{before}"


def move_and_notify(name: str, version: str | None, block: str | None) -> ChampionMove:
    """Move the champion as `move_champion` does, and tell people of it, if a block is named.

    Raises BadInput, for a block that is not there before anything is moved.
    """
    check_block(block)
    moved = move_champion(name, version)
    notify_verdict(block, "rolled back" if version is None else "promoted by hand", moved.text)
    return moved


@task(name="promotion")
def move_champion(name: str, version: str | None) -> ChampionMove:
    """Make this version the champion, or with None the champion before the present one."""
    with promotions_of(name):
        moved, before = promote(name, version) if version else rollback(name)
    return ChampionMove(name=name, version=moved.version, previous=before)


def promote(name: str, version: str) -> tuple[Version, str | None]:
    """A person's explicit move of the champion; the version, and the champion before it."""
    chosen = tracking.find_version(name, version)
    return chosen, make_champion(chosen)


def rollback(name: str) -> tuple[Version, str]:
    """Back to the champion before this one. Raises BadInput where there was none."""
    if not tracking.versions(name):
        tracking.find_version(name, "1")  # says which models there are
    history = tracking.champions(name)
    if len(history) < 2:
        raise BadInput(f"'{name}' has had no champion before this one; nothing to go back to")
    before = tracking.find_version(name, history[-2])
    tracking.set_champion(before, history[:-1])
    announce_promotion(before, history[-1])
    return before, history[-1]
