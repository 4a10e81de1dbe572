"""`--method ./my_method.py:Mine`: a class of a file of the user's own, wherever one is named."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer

from flows.cli.session import with_variables
from sfda.plugins import CODE_FILES

NAMING = (
    "method",
    "methods",
    "select_by",
    "by",
    "queries",
)  # parameters that name what open folders hold


def offer_code_files_(app: typer.Typer) -> None:
    """Let every command of the app that names a method, validator or query take a file's class."""
    for command in app.registered_commands:
        callback = command.callback
        if callback and set(NAMING) & set(inspect.signature(callback).parameters):
            command.callback = _with_files(callback)


def split_files(text: str) -> tuple[str, list[str]]:
    """Names as they are, a file's class by its own name; and those files, by whole paths.

    >>> split_files("shot,/srv/mine.py:Mine")
    ('shot,Mine', ['/srv/mine.py:Mine'])
    """
    names, files = [], []
    for part in text.split(","):
        path, colon, name = part.strip().rpartition(":")
        if colon and path.endswith(".py"):
            files.append(f"{Path(path).expanduser().absolute()}:{name}")
            part = name
        names.append(part)
    return ",".join(names), files


def _with_files(callback: Callable[..., Any]) -> Callable[..., Any]:
    """The same command, whose call holds the files in the environment: its processes inherit it."""

    @functools.wraps(callback)
    def naming(*args: Any, **options: Any) -> Any:
        files = []
        for option in NAMING:
            if isinstance(text := options.get(option), str):
                options[option], more = split_files(text)
                files += more
        if not files:
            return callback(*args, **options)
        before = os.environ.get(CODE_FILES)
        with with_variables({CODE_FILES: ",".join([*filter(None, [before]), *files])}):
            return callback(*args, **options)

    return naming
