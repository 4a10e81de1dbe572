"""What a restricted process writes to stderr, relayed line by line to ours.

The process has a pipe there instead of the terminal: whoever may write to a terminal can repaint
it, and make it type.
"""

from __future__ import annotations

import os
import select
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from sfda.sandbox.messages import AT_ONCE, plain

MOST_SHOWN = 1 << 20  # characters that are shown of one process
LONGEST_LINE = 1 << 12  # bytes; longer ones are broken
PREFIX = "inside: "  # no line of it can pass for one of ours


class Lines:
    """Bytes in, lines to be shown out; no more than `most` characters of them, and then a word."""

    def __init__(self, most: int = MOST_SHOWN) -> None:
        self._rest, self._left = b"", most

    def feed(self, chunk: bytes, *, last: bool = False) -> list[str]:
        """The lines that are whole now; with `last` also one that is not.

        Of what a bar draws over and over by carriage returns the last state counts.
        """
        if self._left <= 0:
            return []
        *whole, self._rest = (self._rest + chunk).split(b"\n")
        if last and self._rest:
            whole, self._rest = [*whole, self._rest], b""
        self._rest = _latest(self._rest)
        if len(self._rest) > LONGEST_LINE:
            whole, self._rest = [*whole, self._rest], b""
        shown: list[str] = []
        for part in (part for line in whole for part in _parts(_latest(line))):
            shown.append(PREFIX + part)
            self._left -= len(shown[-1]) + 1
            if self._left <= 0:
                return [*shown, f"{PREFIX}... and more, which is left out"]
        return shown


def _latest(line: bytes) -> bytes:
    """What stands in a line in the end, after all carriage returns."""
    text = line.rstrip(b"\r")
    return text.rpartition(b"\r")[2] + line[len(text) :][:1]


def _parts(line: bytes) -> Iterator[str]:
    text = line.rstrip(b"\r")
    for start in range(0, len(text), LONGEST_LINE):
        yield plain(text[start : start + LONGEST_LINE].decode(errors="backslashreplace"))


class Relay:
    """A pipe whose lines appear on stderr. `close_writer` once the process has its end."""

    def __init__(self) -> None:
        self._reader, self.writer = os.pipe()
        self._over, self._end = os.pipe()
        self._lines = Lines()
        self._thread = threading.Thread(target=self._relay, name="sandbox-stderr", daemon=True)
        self._thread.start()

    def close_writer(self) -> None:
        """Close this process's own end for writing."""
        if self.writer >= 0:
            os.close(self.writer)
            self.writer = -1

    def finish(self) -> None:
        """Relay what is there still, and stop, whoever holds the pipe open."""
        self.close_writer()
        os.close(self._end)
        self._thread.join()
        os.close(self._reader)
        os.close(self._over)

    def _relay(self) -> None:
        """Read until all writers are gone, or it is over and nothing more is there at once."""
        poll, left = select.poll(), 2 * MOST_SHOWN // AT_ONCE
        poll.register(self._reader, select.POLLIN)
        poll.register(self._over, select.POLLIN)
        while left > 0:
            ready = dict(poll.poll())
            if self._over in ready:
                left -= 1
            if self._reader not in ready:
                break
            chunk = os.read(self._reader, AT_ONCE)
            if not chunk:
                break
            _show(self._lines.feed(chunk))
        _show(self._lines.feed(b"", last=True))


def _show(lines: list[str]) -> None:
    """On stderr as it is now; where that is gone, nowhere."""
    if not lines:
        return
    with suppress(OSError, ValueError, AttributeError):
        sys.stderr.write("".join(f"{line}\n" for line in lines))
        sys.stderr.flush()


@contextmanager
def relayed() -> Iterator[Relay]:
    """A relay, until the end of the block."""
    relay = Relay()
    try:
        yield relay
    finally:
        relay.finish()
