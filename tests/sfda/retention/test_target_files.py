"""Which old versions of growing targets go, and which audits that nobody has answered."""

from __future__ import annotations

import fcntl
import json
import os
import time
from pathlib import Path

import pytest

from sfda.adaptation.target_versions import RefreshPolicy, check_target, next_version, target_folder
from sfda.retention.home_files import delete_entry
from sfda.retention.policy import RetentionPolicy
from sfda.retention.target_files import old_audits, old_target_files

NOW = time.time()
DAY = 86400.0
POLICY = RetentionPolicy(older_than="30d", keep=2)


def age(path: Path, days: float = 40) -> None:
    """As if all of it had been written so many days ago."""
    for one in sorted(path.rglob("*"), reverse=True):
        os.utime(one, (NOW - days * DAY, NOW - days * DAY))
    os.utime(path, (NOW - days * DAY, NOW - days * DAY))


def old_target(home: Path, adapted: int = 2, newest: int = 6) -> Path:
    folder = home / "targets" / "site"
    folder.mkdir(parents=True)
    for number in range(1, newest + 1):
        for rest in (".yaml", ".rows.csv", ".json", "-new.yaml"):
            (folder / f"v{number:04d}{rest}").write_text("x")
    state = {"version": newest, "adapted": adapted}
    state["manifest"] = {"path": str(folder / f"v{newest:04d}.yaml")}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "lock").touch()
    (folder / "notes.txt").write_text("of a person")
    age(folder)
    return folder


def numbers(folder: Path) -> list[str]:
    return sorted({f.name[:5] for f in folder.iterdir() if f.name.startswith("v0")})


def clean(home: Path, needed: tuple[str, ...] = ()) -> list[str]:
    entries, left = old_target_files(home, POLICY, needed, NOW)
    for entry in entries:
        delete_entry(entry)
    return left


def test_versions_stay_that_are_newest_adapted_to_or_needed(tmp_path):
    folder = old_target(tmp_path)
    assert clean(tmp_path, ("targets/site/v0003",)) == ["targets/site/v0003 is needed"]
    assert numbers(folder) == ["v0002", "v0003", "v0005", "v0006"]
    assert (folder / "notes.txt").is_file()
    assert not clean(tmp_path)
    assert numbers(folder) == ["v0002", "v0005", "v0006"]


def test_a_version_that_is_new_is_worked_at_or_of_an_unknown_state_stays(tmp_path):
    folder = old_target(tmp_path)
    os.utime(folder / "v0001.json", (NOW, NOW))
    with (folder / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        clean(tmp_path)
        assert len(numbers(folder)) == 6
    clean(tmp_path)
    assert numbers(folder) == ["v0001", "v0002", "v0005", "v0006"]
    (folder / "state.json").write_text('{"version": "6"}')
    age(folder)
    assert clean(tmp_path) == ["targets/site has no readable state.json"]
    assert len(numbers(folder)) == 4


def test_no_link_is_followed_from_the_folder_of_targets(tmp_path):
    folder = old_target(tmp_path / "elsewhere")
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "targets").symlink_to(folder.parent)
    clean(tmp_path / "home")
    (tmp_path / "home" / "targets").unlink()
    (tmp_path / "home" / "targets").mkdir()
    (tmp_path / "home" / "targets" / "site").symlink_to(folder)
    clean(tmp_path / "home")
    assert len(numbers(folder)) == 6


def test_a_target_grows_on_after_its_old_versions_went(home, tmp_path):
    (files := tmp_path / "images").mkdir()
    policy = RefreshPolicy(settle=0)
    for number in range(5):
        (files / f"{number}.png").write_bytes(b"x%d" % number)
        with target_folder("site") as folder:
            assert folder is not None
            check = check_target(folder, str(files), policy, "all", None)
            record = next_version(check, str(files), "classification", ("a", "b"))
    age(home / "targets", 90)
    clean(home)
    assert numbers(home / "targets" / "site") == ["v0004", "v0005"]
    (files / "new.png").write_bytes(b"new")
    with target_folder("site") as folder:
        assert folder is not None
        check = check_target(folder, str(files), policy, "all", None)
        record = next_version(check, str(files), "classification", ("a", "b"))
    assert (record.version, check.since_version.added) == (6, ("new.png",))


@pytest.fixture
def audits(tmp_path: Path) -> Path:
    """Six audits of `toy`: the first answered, the second waited for, then four of nobody."""
    for number in range(1, 7):
        folder = tmp_path / "audits" / f"toy-{number}"
        folder.mkdir(parents=True)
        (folder / "audit.json").write_text(f'{{"candidate": "models:/toy/{number}"}}')
        age(folder, 100 - number)
    (tmp_path / "audits" / "toy-1" / "answers.json").write_text("{}")
    age(tmp_path / "audits" / "toy-1", 99)
    waiting = {"folder": str(tmp_path / "audits" / "toy-2")}
    (tmp_path / "requests").mkdir()
    (tmp_path / "requests" / "a.json").write_text(json.dumps(waiting))
    (tmp_path / "audits" / "mine").mkdir()  # not called as ours
    age(tmp_path / "audits" / "mine", 400)
    return tmp_path


def test_audits_go_that_nobody_answered_or_waits_for_but_for_the_newest(audits):
    entries = old_audits(audits, POLICY, NOW)
    assert sorted(entry.path.name for entry in entries) == ["toy-3", "toy-4"]
    (audits / "audits" / "toy-3" / "answers.json").write_text("{}")  # meanwhile
    assert [delete_entry(entry) for entry in sorted(entries)] == [False, True]
    assert not (audits / "audits" / "toy-4").exists()
    assert not old_audits(audits, RetentionPolicy(older_than="200d", keep=0), NOW)
