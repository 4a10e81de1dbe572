"""The command `sfda`: every group of commands, in the order in which help lists them.

Heavy imports are inside the commands.
"""

from __future__ import annotations

import typer

from flows.cli import adapt, annotate, data, decide, operate, predict, profile, source, tune
from flows.cli.code_files import offer_code_files_
from flows.cli.session import end_at_once
from flows.cli.trust import offer_trust_

app = typer.Typer(
    name="sfda",
    help="Fit a vision model somebody else trained to new, unlabelled data.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for group in (data, source, profile, adapt, predict, tune, annotate, decide, operate):
    group.register(app)
offer_code_files_(app)
offer_trust_(app)


def main() -> None:
    """The entry point."""
    end_at_once(app)
