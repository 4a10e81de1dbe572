"""The secret of a home: who can read it, and whom it is told."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from sfda.errors import BadInput
from sfda.state_folder import home as home_folder
from tasks.prefect_runtime import secrets
from tasks.prefect_runtime.home import prepare_environment
from tasks.prefect_runtime.peers import Peers
from tasks.prefect_runtime.secrets import CLIENT, know_own_server, own_server, prefect_secret


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with closing(socket.create_server(("127.0.0.1", 0))) as made:
        yield made


@pytest.fixture
def url(listener, monkeypatch) -> str:
    """Where something of ours listens, which the environment names."""
    address = f"http://127.0.0.1:{listener.getsockname()[1]}"
    monkeypatch.setenv("PREFECT_API_URL", f"{address}/api")
    monkeypatch.delenv(CLIENT, raising=False)
    return address


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_the_secret_is_made_once_and_is_closed_to_others(home):
    with ThreadPoolExecutor(8) as pool:
        made = {future.result() for future in [pool.submit(prefect_secret) for _ in range(8)]}
    assert len(made) == 1
    (text,) = made
    user, _, password = text.partition(":")
    assert user == "sfda"
    assert len(password) >= 40
    assert mode(home / "secrets") == 0o700
    assert mode(home / "secrets" / "prefect") == 0o600
    assert mode(home) == 0o700
    assert prefect_secret() == text


def test_a_secret_that_others_could_read_is_replaced(home):
    before = prefect_secret()
    file = home / "secrets" / "prefect"
    file.chmod(0o644)
    assert prefect_secret() != before
    assert mode(file) == 0o600


def test_a_link_is_not_taken_for_the_secret(home, tmp_path):
    (tmp_path / "theirs").write_text("sfda:known")
    (home / "secrets").mkdir()
    (home / "secrets" / "prefect").symlink_to(tmp_path / "theirs")
    assert prefect_secret() != "sfda:known"
    assert (tmp_path / "theirs").read_text() == "sfda:known"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_home_that_cannot_be_written_to_is_named(home):
    home.chmod(0o500)
    with pytest.raises(BadInput, match="SFDA_HOME"):
        prefect_secret()


def test_an_open_home_of_ours_is_closed(home, monkeypatch):
    home.chmod(0o755)
    (home / "mlflow.db").chmod(0o644)
    monkeypatch.setenv("PREFECT_HOME", str(home / "prefect"))
    prepare_environment()
    assert mode(home_folder()) == 0o700
    assert mode(home / "mlflow.db") == 0o600


def test_a_shell_beside_our_server_knows_the_secret_and_no_other_does(home, url, monkeypatch):
    know_own_server()
    assert CLIENT not in os.environ
    with own_server(url):
        know_own_server()
        assert os.environ[CLIENT] == prefect_secret()
        monkeypatch.setenv(CLIENT, "mine:own")
        know_own_server()
        assert os.environ[CLIENT] == "mine:own"
        monkeypatch.delenv(CLIENT)
        monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:1/api")
        know_own_server()
        assert CLIENT not in os.environ
        monkeypatch.setenv("PREFECT_API_URL", "http://team:4200/api")
        know_own_server()
        assert CLIENT not in os.environ
    monkeypatch.setenv("PREFECT_API_URL", f"{url}/api")
    know_own_server()
    assert CLIENT not in os.environ


@pytest.mark.parametrize("noted", ["99999999", "{pid}", "{pid} 1 2", "", "x y"])
def test_a_server_whose_process_is_gone_is_not_told(home, url, noted):
    """Also where another process has its number by now."""
    prefect_secret()
    (home / "run").mkdir()
    (home / "run" / f"prefect-{url.rpartition(':')[2]}").write_text(noted.format(pid=os.getpid()))
    know_own_server()
    assert CLIENT not in os.environ


def test_the_secret_is_told_to_our_own_socket_alone(home, url, listener, monkeypatch):
    def of_another(end, other):
        return os.geteuid() + 1

    with own_server(url):
        peers = Peers()
        peers.lookup = of_another
        monkeypatch.setattr(secrets, "Peers", lambda: peers)
        know_own_server()
        assert CLIENT not in os.environ
        monkeypatch.undo()
        monkeypatch.setenv("SFDA_HOME", str(home))
        monkeypatch.setenv("PREFECT_API_URL", f"{url}/api")
        monkeypatch.delenv(CLIENT, raising=False)
        listener.close()
        if Peers().lookup is not None:
            know_own_server()
            assert CLIENT not in os.environ  # nobody listens, and anybody may begin to
