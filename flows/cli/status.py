"""The command that says where everything stands: `sfda status`."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from flows.cli.options import Json
from flows.cli.session import session


def status(
    limit: Annotated[int, typer.Option(min=1, max=1000, help="runs to show")] = 10,
    json: Json = False,
) -> None:
    """Last runs, champions, growing targets, labels that are wanted, and jobs."""
    with session(json) as out:
        from tasks.prefect_runtime.status import read_status

        found = read_status(limit)
        out.show(found.model_dump(), status_text(found, time.time()))


def status_text(found: Any, now: float) -> str:
    """For a person: a paragraph for each kind of thing that there is."""
    parts = [
        _part("runs", [_run(one, now) for one in found.runs]),
        _part("models", [_model(one) for one in found.models]),
        _part("targets", [_target(one) for one in found.targets]),
        _part(
            "labels wanted",
            [
                f"{one.count} by {one.by}, {_ago(now - one.asked)}: {one.folder}"
                for one in found.labels_wanted
            ],
        ),
    ]
    if found.jobs:
        counts = ", ".join(f"{n} {state.lower()}" for state, n in found.jobs.states.items())
        parts.append(_part("jobs", [counts or "none", *found.jobs.failed]))
    return "\n".join(part for part in parts if part) or "nothing has run here yet"


def _part(title: str, lines: list[str]) -> str:
    return "\n".join([title, *(f"  {line}" for line in lines)]) if lines else ""


def _run(one: Any, now: float) -> str:
    took = f", {one.seconds:.0f} s" if one.seconds is not None else ""
    said = f": {one.verdict}" if one.verdict else ""
    return f"{_ago(now - one.started):>8}  {one.status}{took}  {one.name}{said}"


def _model(one: Any) -> str:
    said = f"{one.name}: champion {one.champion or 'none'} of {one.versions}"
    if one.candidate and one.candidate != one.champion:
        said += f", candidate {one.candidate}" + (f" ({one.verdict})" if one.verdict else "")
    return said


def _target(one: Any) -> str:
    told = f"adapted to version {one.adapted}" if one.adapted else "not adapted to"
    return f"{one.name}: version {one.version}, {one.images} files, {told} ({one.path})"


def _ago(seconds: float) -> str:
    """
    >>> _ago(30), _ago(7300), _ago(200000)
    ('30 s ago', '2 h ago', '2 d ago')
    """
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{int(seconds // size)} {unit} ago"
    return f"{int(seconds)} s ago"


def register(app: typer.Typer) -> None:
    """Put the command on the command line."""
    app.command()(status)
