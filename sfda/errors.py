"""The one error that a user is meant to see, how its message lists things, and what is odd."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple


class BadInput(ValueError):
    """Something the user gave cannot be used; the message names it and says what would do.

    The command line prints the message alone and ends with exit code 2. What it names may be of
    somebody else's making, so nothing in it is a command to a terminal.
    """

    def __init__(self, message: object = "", *more: object) -> None:
        super().__init__(for_terminal(_shortened(str(message))), *more)


def _shortened(text: str) -> str:
    """A message that goes on and on, without its middle: its end says what would do."""
    if len(text) <= LONGEST_MESSAGE:
        return text
    end = LONGEST_MESSAGE // 4
    return f"{text[: 2 * end]} [...] {text[-end:]}"


LONGEST_MESSAGE = 4000  # characters; a file may hold names of any length


def for_terminal(text: str) -> str:
    r"""The same, with `?` for each character that a terminal would obey instead of showing it.

    >>> for_terminal("class \x1b[2J")
    'class ?[2J'
    """
    return "".join("?" if ord(character) in OBEYED else character for character in text)


def shell_command(*words: object) -> str:
    """A command as it is typed: whatever a name holds is a word to the shell, and nothing else.

    >>> shell_command("sfda", "check", "my site$(id).yaml")
    "sfda check 'my site$(id).yaml'"
    """
    return shlex.join(map(str, words))


# control characters but for tab and newline, surrogates, and what turns the direction of text
OBEYED = frozenset(
    number
    for first, last in (
        (0x00, 0x08),
        (0x0B, 0x1F),
        (0x7F, 0x9F),
        (0x202A, 0x202E),
        (0x2066, 0x2069),
        (0xD800, 0xDFFF),
    )
    for number in range(first, last + 1)
)


class NotFinite(BadInput):
    """A network whose answers are no numbers, since it diverged or was imported so."""


def no_model(uri: str) -> BadInput:
    """There is no model at an address."""
    return BadInput(
        f"no model at {uri}; say models:/NAME@champion, models:/NAME/1 or a bundle's folder"
    )


def no_manifest(path: str | Path) -> BadInput:
    """There is no manifest at a path."""
    return BadInput(
        f"no manifest at {path}; data_manifests/README.md says how to write one, `sfda manifest "
        "FOLDER` makes one"
    )


def check_path(path: str | Path) -> None:
    """Raise BadInput for what can be no path on any disk: NUL, or half a character, in it."""
    try:
        odd = b"\0" in os.fsencode(path)
    except UnicodeEncodeError:
        odd = True
    if odd:
        raise BadInput(f"{for_terminal(str(path))[:80]} is no path: no file can be called so")


MOST_LISTED = 10  # so many items are named in one message


def listed(items: Sequence[str], joint: str = ", ") -> str:
    """The first ten items, and how many more there are."""
    more = f"{joint}and {len(items) - MOST_LISTED} more" if len(items) > MOST_LISTED else ""
    return joint.join(items[:MOST_LISTED]) + more


class Concerns(NamedTuple):
    """What is surely wrong, and what is no fault but should be known."""

    faults: list[str]
    notes: list[str]
