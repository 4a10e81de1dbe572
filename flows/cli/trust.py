"""`--trust-code PACKAGE`, on every command that opens a model: whose code a model may name."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable
from typing import Annotated, Any

import typer

from flows.cli.session import with_variables
from sfda.networks.foreign.trusted import TRUST_CODE

# parameters of commands that open models
OPENS_MODELS = frozenset({"source", "model", "candidate", "arch", "jobs"})
TrustCodeOption = Annotated[
    list[str] | None,
    typer.Option("--trust-code", help="a package, or FILE.py@DIGEST, of the model's code; it runs"),
]


def offer_trust_(app: typer.Typer) -> None:
    """Give the option to every command of the app that opens a model."""
    for command in app.registered_commands:
        callback = command.callback
        if callback and OPENS_MODELS & set(inspect.signature(callback).parameters):
            command.callback = _with_trust(callback)


def _with_trust(callback: Callable[..., Any]) -> Callable[..., Any]:
    """The same command, whose call holds the packages in the environment: jobs inherit them."""

    @functools.wraps(callback)
    def trusting(*args: Any, trust_code: list[str] | None = None, **rest: Any) -> Any:
        if not trust_code:
            return callback(*args, **rest)
        before = os.environ.get(TRUST_CODE)
        with with_variables({TRUST_CODE: ",".join([*filter(None, [before]), *trust_code])}):
            return callback(*args, **rest)  # the session checks what they name

    signature = inspect.signature(callback, eval_str=True)
    option = inspect.Parameter(
        "trust_code", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=TrustCodeOption
    )
    parameters = [*signature.parameters.values(), option]
    trusting.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    trusting.__annotations__ = {p.name: p.annotation for p in parameters}
    return trusting
