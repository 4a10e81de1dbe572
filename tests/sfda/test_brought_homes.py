"""A home in the current folder is obeyed only where a command of this user has made it."""

from __future__ import annotations

from pathlib import Path

import pytest

from sfda.errors import BadInput
from sfda.state_folder import home, private_file
from sfda.strangers import MADE_HERE


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder of a person who names no home."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.delenv("SFDA_HOME", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return folder


def test_a_home_that_we_made_is_used_again(here: Path) -> None:
    assert home() == here / ".sfda"
    (home() / "prefect").mkdir()
    assert home() == here / ".sfda"


def test_a_home_that_was_unpacked_is_refused_until_it_is_named(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    brought = here / ".sfda" / "prefect"
    brought.mkdir(parents=True)
    (brought / "logging.yml").write_text("version: 1\n")
    for mark in (None, "", "0" * 32):
        if mark is not None:
            (here / ".sfda" / MADE_HERE).write_text(mark)
        with pytest.raises(BadInput, match=r"made by no command of yours.*export SFDA_HOME="):
            home()
    monkeypatch.setenv("SFDA_HOME", str(here / ".sfda"))
    assert home() == here / ".sfda"


def test_a_mark_of_another_place_or_behind_a_link_counts_for_nothing(here: Path) -> None:
    mark = home() / MADE_HERE
    (here / "moved").mkdir()
    (here / ".sfda").rename(here / "moved" / ".sfda")
    (here / ".sfda").mkdir()
    (here / ".sfda" / "x").write_text("")
    (here / ".sfda" / MADE_HERE).symlink_to(here / "moved" / ".sfda" / MADE_HERE)
    assert mark.read_text()
    with pytest.raises(BadInput, match="made by no command"):
        home()


def test_without_a_list_nothing_is_made(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(here / "file"))
    with pytest.raises(BadInput, match=r"cannot be told from one.*export SFDA_HOME="):
        home()
    assert not (here / ".sfda").exists()


def test_a_file_of_the_home_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    (tmp_path / "mlflow.db").symlink_to(victim)
    with pytest.raises(BadInput, match="is a link, which is not followed"):
        private_file(tmp_path / "mlflow.db")
    assert not victim.exists()
    victim.write_text("theirs")
    victim.chmod(0o644)
    with pytest.raises(BadInput, match="is a link"):
        private_file(tmp_path / "mlflow.db")
    assert victim.stat().st_mode & 0o777 == 0o644


def test_a_user_without_a_home_folder_names_one(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nowhere() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setattr(Path, "home", nowhere)
    with pytest.raises(BadInput, match=r"Could not determine home.*export SFDA_HOME="):
        home()
    assert not (here / ".sfda").exists()
