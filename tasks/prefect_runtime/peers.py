"""Whose socket the other end of a local connection is.

Browsers do not tell ports apart: the cookie of a page on 127.0.0.1 goes to every server there, also
to one that another user runs. So the cookie counts only where this user's own socket brings it.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

Address = tuple[str, int]
Lookup = Callable[[Address, Address], int | None]

TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
MAPPED = b"\0" * 10 + b"\xff" * 2  # before an IPv4 address in IPv6
SOCK_DIAG, BY_FAMILY, REQUEST, ERROR = 4, 20, 1, 2  # of linux/netlink.h and linux/sock_diag.h
HEADER = struct.Struct("=IHHII")
QUESTION, PORTS, ANY = struct.Struct("=BBBBI"), struct.Struct("!HH"), struct.Struct("=I8s")
REPLY = struct.Struct("=4x48x12xII")  # of inet_diag_msg: the user, the inode
ANSWER_SIZE, PATIENCE = 8192, 1.0  # bytes; seconds, the kernel answers while it is asked


def ask_kernel(end: Address, other: Address) -> int | None:
    """The user whose socket a connection's `end` is, by one question about this one connection.

    None where nobody holds it: it is closed. With nobody's address (0.0.0.0, 0) as `other` it is
    the socket that would answer a new connection to `end`. Raises OSError where the kernel takes no
    questions.
    """
    query = QUESTION.pack(socket.AF_INET, socket.IPPROTO_TCP, 0, 0, 0xFFFFFFFF)
    query += PORTS.pack(end[1], other[1])
    query += b"".join(socket.inet_aton(host).ljust(16, b"\0") for host, _ in (end, other))
    query += ANY.pack(0, b"\xff" * 8)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, SOCK_DIAG) as line:
        line.settimeout(PATIENCE)
        line.send(HEADER.pack(HEADER.size + len(query), BY_FAMILY, REQUEST, 1, 0) + query)
        answer = line.recv(ANSWER_SIZE)
    _, kind, *_ = HEADER.unpack_from(answer)
    if kind == ERROR:
        number = -struct.unpack_from("=i", answer, HEADER.size)[0]
        if number == 2:  # ENOENT: there is no such socket
            return None
        raise OSError(number, os.strerror(number))
    user, inode = REPLY.unpack_from(answer, HEADER.size)
    return int(user) if inode else None


def read_tables(end: Address, other: Address) -> int | None:
    """The same out of the kernel's tables, where it takes no questions. Raises OSError without
    them. They are walked whole, which takes a millisecond or two."""
    for table in TABLES:
        if table.exists() or table == TABLES[0]:
            user = owner_in(table.read_text(), end, other)
            if user is not None:
                return user
    return None


def owner_in(table: str, end: Address, other: Address) -> int | None:
    """The user in the row of a connection's `end`; None without one, or where nobody holds it.

    `table` is the text of /proc/net/tcp or tcp6. A socket that its process has closed is shown as
    root's, and without an inode: that of a stranger who left is nobody's.
    """
    pairs = {(_shown(end, prefix), _shown(other, prefix)) for prefix in (b"", MAPPED)}
    for line in table.splitlines()[1:]:
        words = line.split()
        if len(words) > 9 and (words[1], words[2]) in pairs and words[9] != "0":
            return int(words[7])
    return None


def _shown(address: Address, prefix: bytes) -> str:
    """An address as the table shows it: 32 bits at a time, each in the machine's own order."""
    host = prefix + socket.inet_aton(address[0])
    parts = (int.from_bytes(host[n : n + 4], sys.byteorder) for n in range(0, len(host), 4))
    return f"{''.join(f'{part:08X}' for part in parts)}:{address[1]:04X}"


class Peers:
    """Tells connections of this user, or root, from those of strangers.

    Each way to look is tried on a connection of our own first. Where none can be had (not Linux, or
    neither questions nor tables), nobody is told apart, and all count as ours.
    """

    def __init__(self, lookups: tuple[Lookup, ...] = (ask_kernel, read_tables)) -> None:
        self.lookup = next((lookup for lookup in lookups if _knows_us(lookup)), None)

    def is_ours(self, client: Address | None, server: Address | None) -> bool:
        """Whether a connection comes from a socket that this user or root holds."""
        if self.lookup is None:
            return True
        if client is None or server is None:
            return False  # it is gone
        try:
            return self.lookup(client, server) in (os.geteuid(), 0)
        except OSError:
            return False


def _knows_us(lookup: Lookup) -> bool:
    try:
        with closing(socket.create_server(("127.0.0.1", 0))) as listener:
            listener.settimeout(PATIENCE)
            with socket.create_connection(listener.getsockname(), PATIENCE) as ours:
                return lookup(ours.getsockname(), ours.getpeername()) == os.geteuid()
    except (OSError, AttributeError, struct.error):  # no AF_NETLINK here
        return False
