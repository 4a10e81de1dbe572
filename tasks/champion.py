"""Which version is champion: every move of it, one at a time, and the history of champions."""

from __future__ import annotations

import hashlib
import time
from contextlib import AbstractContextManager

from prefect import task
from prefect.runtime import deployment, flow_run

from sfda.config import Config
from sfda.decision.gate import extended
from sfda.errors import BadInput
from sfda.refs import Version
from sfda.state_folder import home, one_at_a_time
from tasks import tracking
from tasks.prefect_runtime.events import announce_promotion
from tasks.prefect_runtime.notify import check_block, notify_verdict
from tasks.tracking import Move


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
    again: bool = False  # it was champion already

    @property
    def text(self) -> str:
        """In words."""
        if self.again:
            return f"{self.name}: done already, champion is version {self.version}"
        before = f", version {self.previous} before" if self.previous else ""
        return f"{self.name}: champion is version {self.version}{before}"


def move_and_notify(name: str, version: str | None, block: str | None) -> ChampionMove:
    """Move the champion as `move_champion` does, and tell people of it, if a block is named.

    Raises BadInput, for a block that is not there before anything is moved.
    """
    check_block(block)
    moved: ChampionMove = move_champion(name, version, started_by())
    notify_verdict(block, "rolled back" if version is None else "promoted by hand", moved.text)
    return moved


def started_by() -> str:
    """Who moves a champion: a flow run that would be started again, or else a command."""
    return str(flow_run.id) if deployment.id else "command"


@task(name="promotion")
def move_champion(name: str, version: str | None, by: str) -> ChampionMove:
    """Make this version the champion, or with None the champion before the present one.

    What the same was killed in is finished, and not done once more: `tracking.forget_move` tells
    that somebody was told of it.
    """
    with promotions_of(name):
        if (move := tracking.begun_move(name, version, by)) and _is_made(move, name):
            moved, before = _finished(move, name), move.before
        else:
            before, to = _planned(name, version)
            if before == to:
                return ChampionMove(name=name, version=to, previous=before, again=True)
            tracking.note_move(
                name, Move(before=before, version=to, back=not version, by=by, begun=time.time())
            )
            moved, before = promote(name, to) if version else rollback(name)
    return ChampionMove(name=name, version=moved.version, previous=before)


def _is_made(move: Move, name: str) -> bool:
    return number_of(tracking.by_alias(name, "champion")) == move.version


def _finished(move: Move, name: str) -> Version:
    """Its champion, with what comes after the alias."""
    version = tracking.find_version(name, move.version)
    tracking.set_champion(version, tracking.champions(name))
    announce_promotion(version, move.before)
    return version


def _planned(name: str, version: str | None) -> tuple[str | None, str]:
    """The champions before and after a move. Raises BadInput for one that cannot be made."""
    if version:
        to = tracking.find_version(name, version).version
        return number_of(tracking.by_alias(name, "champion")), to
    history = _with_one_before(name)
    return history[-1], history[-2]


def promote(name: str, version: str) -> tuple[Version, str | None]:
    """A person's explicit move of the champion; the version, and the champion before it."""
    chosen = tracking.find_version(name, version)
    return chosen, make_champion(chosen)


def _with_one_before(name: str) -> list[str]:
    """The history of champions; BadInput unless there was one before this one."""
    if not tracking.versions(name):
        tracking.find_version(name, "1")  # says which models there are
    history = tracking.champions(name)
    if len(history) < 2:
        raise BadInput(f"'{name}' has had no champion before this one; nothing to go back to")
    return history


def rollback(name: str) -> tuple[Version, str]:
    """Back to the champion before this one. Raises BadInput where there was none."""
    history = _with_one_before(name)
    before = tracking.find_version(name, history[-2])
    tracking.set_champion(before, history[:-1])
    announce_promotion(before, history[-1])
    return before, history[-1]
