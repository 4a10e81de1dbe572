"""A home that others could write to: what they may have left there is refused by name."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from sfda import state_folder
from sfda.adaptation.target_versions import target_folder
from sfda.errors import BadInput
from sfda.state_folder import home as home_folder
from sfda.state_folder import log_file, one_at_a_time, private_folder

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may make files of others")
OTHER = 65534


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize(
    "name", ["prefect", "logs/mlflow.log", "secrets/prefect.lock", "prefect/a/b/c", "runs/one"]
)
def test_a_link_in_a_home_that_others_could_write_to_is_refused(home, tmp_path, name):
    private_folder((home / name).parent)
    (home / name).symlink_to(tmp_path / "victim")
    home.chmod(0o777)
    for _ in range(2):  # it is not forgotten
        with pytest.raises(BadInput, match=f"{name}; look at them and move them away"):
            home_folder()
        assert mode(home) == 0o777
    (home / name).unlink()
    assert home_folder() == home
    assert mode(home) == 0o700


def test_a_link_in_a_home_that_others_could_only_read_is_the_users_own(home, tmp_path):
    (home / "decoded").symlink_to(tmp_path)
    home.chmod(0o755)
    assert home_folder() == home


@as_root
@pytest.mark.parametrize("name", ["prefect/profiles.toml", "prefect", "mlflow.db", "runs/one"])
def test_what_is_another_users_is_refused(home, name):
    file = home / name
    file.parent.mkdir(exist_ok=True)
    file.touch()
    os.chown(file, OTHER, OTHER)
    home.chmod(0o755)
    with pytest.raises(BadInput, match=f"{name}; look"):
        home_folder()


def test_folders_in_it_are_closed_for_who_is_in_there(home):
    (home / "runs").mkdir()
    (home / "runs").chmod(0o777)
    home.chmod(0o755)
    home_folder()
    assert mode(home / "runs") == 0o755


@as_root
def test_a_home_of_another_user_is_refused(home, tmp_path, monkeypatch):
    os.chown(home, OTHER, OTHER)
    with pytest.raises(BadInput, match=r"another user.*set SFDA_HOME to a folder of your own"):
        home_folder()
    link = tmp_path / "link"
    link.symlink_to(tmp_path)
    os.lchown(link, OTHER, OTHER)
    monkeypatch.setenv("SFDA_HOME", str(link))
    with pytest.raises(BadInput, match="belongs to another user"):
        home_folder()


def test_a_folder_of_all_users_is_no_home(home):
    home.chmod(0o1777)
    with pytest.raises(BadInput, match="all users write to"):
        home_folder()
    assert mode(home) == 0o1777


def test_locks_and_logs_follow_no_link(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("dear")
    for name in ("work.lock", "own.log"):
        (tmp_path / name).symlink_to(victim)
    with pytest.raises(BadInput, match=r"work\.lock is a link"), one_at_a_time(tmp_path / "work"):
        pass
    for go_on in (True, False):
        with pytest.raises(BadInput, match=r"own\.log is a link"):
            log_file(tmp_path / "own.log", go_on=go_on)
    assert victim.read_text() == "dear"


def test_what_a_target_is_locked_by_is_opened_by_no_link(home, tmp_path):
    (tmp_path / "victim").write_text("dear")
    (home / "targets" / "site").mkdir(parents=True)
    (home / "targets" / "site" / "lock").symlink_to(tmp_path / "victim")
    with pytest.raises(BadInput, match="lock is a link"), target_folder("site"):
        pass
    assert (tmp_path / "victim").read_text() == "dear"


def test_a_hard_link_in_a_home_that_others_could_write_to_is_refused(home, tmp_path):
    (tmp_path / "victim").touch()
    (home / "logs").mkdir()
    os.link(tmp_path / "victim", home / "logs" / "proxy.log")
    home.chmod(0o755)
    home_folder()  # nobody else can have made it
    home.chmod(0o777)
    with pytest.raises(BadInput, match=r"logs/proxy\.log; look at them"):
        home_folder()


def test_a_pipe_in_place_of_a_lock_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / ".answers.lock")
    locked = one_at_a_time(tmp_path / ".answers")
    with pytest.raises(BadInput, match=r"\.answers\.lock is no regular file"), locked:
        pass


def test_a_lock_that_another_user_could_hold_is_not_waited_for_without_end(tmp_path, monkeypatch):
    monkeypatch.setattr(state_folder, "LOCK_PATIENCE", 0.05)
    with one_at_a_time(tmp_path / "work"):
        again = one_at_a_time(tmp_path / "work")
        with pytest.raises(BadInput, match=r"work\.lock is locked by another process"), again:
            pass


def test_a_log_is_made_anew_or_goes_on(tmp_path):
    for go_on, text in ((False, "1"), (True, "11"), (False, "1")):
        with log_file(tmp_path / "own.log", go_on=go_on) as log:
            log.write(b"1")
        assert (tmp_path / "own.log").read_text() == text
    assert mode(tmp_path / "own.log") == 0o600
