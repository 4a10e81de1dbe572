"""What README says there is, is what there is."""

from __future__ import annotations

import re
from pathlib import Path

from sfda import plugins

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    """The text below a heading, up to the next one."""
    return README.partition(f"{title}\n")[2].partition("\n#")[0]


def test_the_method_table_lists_every_method() -> None:
    assert re.findall(r"^\| `(\w+)` \|", section("### Methods"), re.M) == plugins.names("methods")


def test_every_validator_is_named() -> None:
    for name in plugins.names("validators"):
        assert f"`{name}`" in section("### Methods")


def test_every_command_is_in_the_table() -> None:
    from flows.cli.options import app

    commands = {c.name or c.callback.__name__ for c in app.registered_commands}
    assert commands == set(re.findall(r"`sfda ([\w-]+)", section("## Your own model and data")))
