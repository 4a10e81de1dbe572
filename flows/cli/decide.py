"""The commands that decide which version of a model is champion."""

from __future__ import annotations

import typer

from flows.cli.options import JsonOption, RegisteredNameArgument
from flows.cli.output import show_champion
from flows.cli.session import session


def promote(name: RegisteredNameArgument, version: str, json: JsonOption = False) -> None:
    """Make a version of a model the champion."""
    with session(json, flow=True) as out:
        from flows.promote import promote as flow

        show_champion(out, flow(name, version))


def rollback(name: RegisteredNameArgument, json: JsonOption = False) -> None:
    """Make the champion before this one the champion again."""
    with session(json, flow=True) as out:
        from flows.rollback import rollback as flow

        show_champion(out, flow(name))


def register(app: typer.Typer) -> None:
    """Put these commands on the command line."""
    for command in (promote, rollback):
        app.command()(command)
