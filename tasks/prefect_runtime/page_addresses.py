"""Where the pages are: a port of this machine, and a name that no page had before.

A browser lets all that one address has ever served work together: its cookies, tabs left open,
service workers. A port is anybody's who comes first, so `http://127.0.0.1:4200` may have been
another user's, and the scripts that they left there would have our page. Browsers look for names
below `localhost` on the machine itself (RFC 6761, 6.3).
"""

from __future__ import annotations

import errno
import secrets
import socket

from sfda.errors import BadInput

BACKLOG = 128
TRIES = 20  # at a port that is free in IPv4 and IPv6


def new_name() -> str:
    """A host on this machine that nobody had before, for the pages of one start."""
    return f"sfda-{secrets.token_hex(8)}.localhost"


def free_port(preferred: int) -> int:
    """`preferred` if nobody listens there, else a free port."""
    with listening(preferred) as probe:
        return int(probe.getsockname()[1])


def listening(preferred: int) -> socket.socket:
    """A socket of 127.0.0.1 that listens at `preferred`, or where that is taken at a free port."""
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind(("127.0.0.1", preferred))
    except OSError:
        made.bind(("127.0.0.1", 0))
    made.listen(BACKLOG)
    return made


def alone(preferred: int) -> tuple[socket.socket, socket.socket | None]:
    """A socket as `listening` makes it, and one that holds its port in IPv6.

    Of a name below `localhost` a browser tries ::1 first: nobody may answer there.
    """
    for port in (preferred, *[0] * TRIES):
        made = listening(port)
        try:
            return made, _held_in_ipv6(made.getsockname()[1])
        except OSError:
            made.close()
    raise BadInput("no port of this machine is free in IPv4 and IPv6; try again")


def _held_in_ipv6(port: int) -> socket.socket | None:
    """A socket that holds a port of ::1 and does not listen; None where there is no IPv6. Raises
    OSError where another one holds it.
    """
    try:
        made = socket.socket(socket.AF_INET6)
    except OSError:
        return None
    try:
        made.bind(("::1", port))  # without SO_REUSEADDR: nobody may share it
    except OSError as error:
        made.close()
        if error.errno == errno.EADDRINUSE:
            raise
        return None
    return made
