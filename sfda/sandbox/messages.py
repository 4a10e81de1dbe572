"""What a restricted process says, as it is read outside: bounded, and nothing a terminal obeys."""

from __future__ import annotations

import json
import os
import select
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from sfda.errors import BadInput

if TYPE_CHECKING:
    from pydantic import TypeAdapter

Valid = TypeVar("Valid")

LONGEST = 1 << 23  # bytes of one message
AT_ONCE = 1 << 16  # bytes
LONGEST_TEXT = 1 << 16  # characters of one string in it
DEEPEST = 16  # lists and dictionaries in each other

Message = dict[str, Any]


class Unacceptable(Exception):
    """What a restricted process sent and never should; the text goes on after "it sent"."""


def refused(error: Unacceptable, folder: Path) -> BadInput:
    """That nothing is taken over from a process that worked in `folder`."""
    return BadInput(
        f"the restricted process sent {error}; nothing of it is taken over. Something that it "
        f"opened may have got hold of it, or a package is at fault: look at the data, delete "
        f"{folder} and start the command again"
    )


def plain(text: str, most: int = LONGEST_TEXT) -> str:
    r"""At most so many characters, control characters and other invisible ones escaped.

    Lines after the first are indented, so that none can pass for a line of somebody else's.

    >>> plain("\x1b[2Ja\tb\nc")
    '\\x1b[2Ja\tb\n  c'
    >>> plain("abcdef", 3)
    'abc ... (3 more)'
    """
    more = f" ... ({len(text) - most} more)" if len(text) > most else ""
    return "".join(map(_escaped, text[:most])) + more


def _escaped(character: str) -> str:
    if character == "\n":
        return "\n  "
    if character.isprintable() or character == "\t":
        return character
    return character.encode("unicode_escape").decode()


def lines_of(messages: int, ended: int) -> Iterator[bytes]:
    """Whole lines from a pipe, until nobody writes there any more.

    Once `ended` can be read, nobody can but who holds the pipe for nothing. A line that grows
    beyond what is accepted is the last.
    """
    poll, patience, rest = select.poll(), None, b""
    for number in (messages, ended):
        poll.register(number, select.POLLIN)
    while ready := dict(poll.poll(patience)):
        if ended in ready:
            poll.unregister(ended)
            patience = 0
        if messages not in ready:
            continue
        if not (chunk := os.read(messages, AT_ONCE)):
            return
        *whole, rest = (rest + chunk).split(b"\n")
        yield from whole
        if len(rest) >= LONGEST:
            yield rest
            return


def read_message(line: bytes) -> Message:
    """A line as a document whose strings are plain. Raises Unacceptable."""
    if len(line) >= LONGEST:
        raise Unacceptable(f"a message of more than {LONGEST} bytes")
    try:
        document = json.loads(line)
    except (ValueError, RecursionError):  # also numbers of too many digits
        raise Unacceptable("a message that is no JSON") from None
    if not isinstance(document, dict):
        raise Unacceptable("a message that is no JSON object")
    parts = _plain_parts(document, DEEPEST)
    assert isinstance(parts, dict)
    return parts


def _plain_parts(value: object, depth: int) -> object:
    if not depth:
        raise Unacceptable(f"a message of more than {DEEPEST} levels")
    match value:
        case str():
            return plain(value)
        case list():
            return [_plain_parts(part, depth - 1) for part in value]
        case dict():
            return {plain(name): _plain_parts(part, depth - 1) for name, part in value.items()}
    return value


def valid(kind: TypeAdapter[Valid], value: object, what: str) -> Valid:
    """A value, or JSON as bytes, as what it should be. Raises Unacceptable."""
    from pydantic import ValidationError  # slow to load, and not wanted in the process itself

    try:
        return kind.validate_json(value) if type(value) is bytes else kind.validate_python(value)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        why = plain(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}", 200)
        raise Unacceptable(f"{what} that cannot be used: {why}") from None
