"""Moves of a champion: in an order that no kill spoils, noted until somebody is told of them."""

from __future__ import annotations

import json
import time
from contextlib import suppress

from mlflow.exceptions import MlflowException
from pydantic import ValidationError

from sfda.config import Config
from sfda.refs import Version
from tasks.tracking.registry import HISTORY, by_alias, set_alias, stated_champions
from tasks.tracking.store import client, is_transient

MOVE = "sfda.move"  # tag of a registered model: a move that nobody has been told of yet
STALE = 86400.0  # seconds after which a move that was begun is no longer the one that is asked for


class Move(Config):
    """A move of the champion that was begun."""

    before: str | None  # the number of the champion before it
    version: str  # of the champion after it
    back: bool  # it was asked for as "the one before", which means another one once it is done
    by: str  # who began it: a flow run, or a command
    begun: float  # seconds since the epoch


def set_champion(version: Version, history: list[str]) -> None:
    """Make this version the champion and keep the history, which ends with it.

    `previous` names the one before. Setting it again, after a kill, changes nothing. Killed in
    between, `champions` tells what was before or what is to be: a longer history comes after the
    alias, a shorter one before it.
    """
    back = len(history) < len(stated_champions(version.name))
    if not back:
        set_alias(version, "champion")
    client().set_registered_model_tag(version.name, HISTORY, json.dumps(history))
    if back:
        set_alias(version, "champion")
    if len(history) > 1:
        client().set_registered_model_alias(version.name, "previous", history[-2])
    elif by_alias(version.name, "previous"):
        client().delete_registered_model_alias(version.name, "previous")


def note_move(name: str, move: Move) -> None:
    """Keep that a move was begun, until `forget_move`."""
    client().set_registered_model_tag(name, MOVE, move.model_dump_json())


def begun_move(name: str, version: str | None, by: str) -> Move | None:
    """The same move, to this version or with None back, that the same has begun and told nobody of;
    None if there is none, or it was begun more than a day ago."""
    try:
        move = Move.model_validate_json(client().get_registered_model(name).tags[MOVE])
    except (KeyError, ValidationError):
        return None
    except MlflowException as error:
        if is_transient(error):
            raise
        return None  # no such model: what is asked for says so
    asked = move.back if version is None else (not move.back and move.version == str(version))
    recent = time.time() - move.begun < STALE
    return move if asked and recent and move.by == by else None


def forget_move(name: str) -> None:
    """Who asked for the last move has been told: the next is another one."""
    with suppress(MlflowException):
        client().delete_registered_model_tag(name, MOVE)
