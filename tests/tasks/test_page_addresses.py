"""Where the pages are: names that nobody had before, ports that nobody answers at beside us."""

from __future__ import annotations

import re
import socket
from contextlib import closing

import pytest

from tasks.prefect_runtime.page_addresses import alone, new_name


def in_ipv6(port: int, host: str = "::1") -> socket.socket:
    made = socket.socket(socket.AF_INET6)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind((host, port))
    except OSError:
        made.close()
        raise
    return made


@pytest.fixture(scope="module", autouse=True)
def _ipv6() -> None:
    try:
        in_ipv6(0).close()
    except OSError:
        pytest.skip("no IPv6 here")


def test_a_name_is_this_machine_s_and_used_once():
    names = {new_name() for _ in range(100)}
    assert len(names) == 100
    assert all(re.fullmatch(r"sfda-[0-9a-f]{16}\.localhost", name) for name in names)


def test_nobody_answers_at_our_port_in_ipv6():
    """A browser tries ::1 first: whoever answered there would be told link and cookie."""
    listener, twin = alone(0)
    port = listener.getsockname()[1]
    assert twin is not None
    with closing(listener), closing(twin):
        for host in ("::1", "::"):
            with pytest.raises(OSError, match="in use"):
                in_ipv6(port, host)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("::1", port), 5)
        socket.create_connection(("127.0.0.1", port), 5).close()


def test_a_port_that_another_has_in_ipv6_is_taken():
    with closing(in_ipv6(0)) as stranger:
        port = stranger.getsockname()[1]
        listener, twin = alone(port)
        assert listener.getsockname()[1] != port
        assert twin is not None
        listener.close()
        twin.close()
