"""Whose socket the other end is: asked of the kernel, read from its tables, shown to the proxy."""

from __future__ import annotations

import os
import socket
import sys
from contextlib import closing

import pytest

from tasks.prefect_runtime.peers import Peers, ask_kernel, owner_in, read_tables

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="tables of Linux")

TITLE = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt uid\n"
ROW = "   1: {local} {remote} 01 0:0 00:0 0 {uid:5} 0 {inode} 1 0 20 4 30 10 -1\n"
CLIENT, SERVER = ("127.0.0.1", 0xE5F7), ("127.0.0.1", 0x1388)
OWN = "0100007F:E5F7", "0100007F:1388"
ZEROS = "0" * 16 + ("FFFF0000" if sys.byteorder == "little" else "0000FFFF")
little = pytest.mark.skipif(sys.byteorder != "little", reason="rows of a little-endian machine")


def table(local: str, remote: str, uid: int = 1000, inode: int = 77) -> str:
    others = ROW.format(local=remote, remote=local, uid=5, inode=78)
    others += ROW.format(local=local, remote="0100007F:1389", uid=6, inode=79)
    return TITLE + others + ROW.format(local=local, remote=remote, uid=uid, inode=inode)


@little
def test_the_row_of_the_other_end_names_its_user():
    assert owner_in(table(*OWN), CLIENT, SERVER) == 1000
    assert owner_in(table(*(ZEROS + one for one in OWN)), CLIENT, SERVER) == 1000
    assert owner_in(TITLE, CLIENT, SERVER) is None
    assert owner_in("", CLIENT, SERVER) is None


@little
def test_a_socket_that_a_stranger_closed_is_not_taken_for_roots():
    """The kernel shows it as root's, without an inode; what was written into it still comes."""
    assert owner_in(table(*OWN, uid=0, inode=0), CLIENT, SERVER) is None
    assert owner_in(table(*OWN, uid=0), CLIENT, SERVER) == 0


@pytest.mark.parametrize("lookup", [ask_kernel, read_tables])
@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_a_connection_of_ours_is_ours_until_it_is_closed(lookup, family):
    if Peers((lookup,)).lookup is None:
        pytest.skip("this kernel shows no sockets this way")
    if family == socket.AF_INET6 and not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        ours = socket.socket(family)
        host = "127.0.0.1" if family == socket.AF_INET else "::ffff:127.0.0.1"
        ours.connect((host, listener.getsockname()[1]))
        with listener.accept()[0] as here:
            client, server = here.getpeername(), here.getsockname()
            assert lookup(client, server) == os.geteuid()
            assert Peers((lookup,)).is_ours(client, server)
            ours.close()
            assert lookup(client, server) is None
            assert not Peers((lookup,)).is_ours(client, server)


@pytest.mark.parametrize("lookup", [ask_kernel, read_tables])
def test_a_socket_that_listens_has_an_owner(lookup):
    if Peers((lookup,)).lookup is None:
        pytest.skip("this kernel shows no sockets this way")
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        address = listener.getsockname()
        assert lookup(address, ("0.0.0.0", 0)) == os.geteuid()
    assert lookup(address, ("0.0.0.0", 0)) is None


def test_a_stranger_is_told_from_this_user_and_root():
    users = {1: os.geteuid(), 2: 0, 3: os.geteuid() + 1, 4: None}
    peers = Peers()
    peers.lookup = lambda end, other: users[end[1]]
    ours = [peers.is_ours(("127.0.0.1", port), SERVER) for port in users]
    assert ours == [True, True, False, False]
    assert not peers.is_ours(None, SERVER)  # it is gone


def test_a_way_to_look_that_does_not_know_us_is_not_used():
    def refused(end, other):
        raise PermissionError

    def of_another(end, other):
        return os.geteuid() + 1

    def knows(end, other):
        return os.geteuid()

    assert Peers((refused, of_another, knows)).lookup is knows
    blind = Peers((refused, of_another))
    assert blind.lookup is None
    assert blind.is_ours(CLIENT, SERVER)  # as where there is no way to look
