"""Which old files of a home go: neither what is needed nor what is worked at, never by a link."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from sfda.retention.home_files import delete_entry, old_entries, size_by_kind
from sfda.retention.policy import RetentionPolicy
from sfda.state_folder import one_at_a_time

NOW = time.time()
DAY = 86400.0
OLD, READ, NEW = ("0a" * 12, "0b" * 12, "0c" * 12)  # digests, as all names of ours
POLICY = RetentionPolicy(older_than="30d", keep=2)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


def write(path: Path, days: float, read: float | None = None) -> Path:
    """A file that was changed so many days ago, and read then or later; its folder as well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"12345678")
    changed = NOW - days * DAY
    os.utime(path, (NOW - (days if read is None else read) * DAY, changed))
    os.utime(path.parent, (changed, changed))
    return path


def clean(home: Path, needed: tuple[str, ...] = ()) -> list[str]:
    """Deletes what may go; names of what went."""
    entries, _ = old_entries(home, POLICY, needed, NOW)
    gone = [e for e in entries if delete_entry(e)]
    return sorted(str(e.path.relative_to(home)) for e in gone)


def test_what_is_old_goes_and_a_cache_stays_as_long_as_it_is_read(home):
    write(home / f"decoded/{OLD}.npy", 40)
    write(home / f"decoded/{READ}.npy", 40, read=3)
    write(home / f"decoded/{NEW}.npy", 3)
    write(home / f"predictions/{OLD}/index.json", 40)
    write(home / f"predictions/{OLD}.lock", 40)
    write(home / f"mine/{OLD}.txt", 400)  # what no rule is about
    assert clean(home) == [f"decoded/{OLD}.npy", f"predictions/{OLD}"]
    left = sorted(str(p.relative_to(home)) for p in home.rglob("*") if p.is_file())
    assert left == [f"decoded/{READ}.npy", f"decoded/{NEW}.npy", f"mine/{OLD}.txt"]


def test_a_run_that_is_unfinished_needed_or_worked_at_stays(home):
    finished, needed, busy, unfinished = (digit * 24 for digit in "1234")
    write(home / f"runs/{unfinished}/state.pt", 40)
    for name in (finished, needed, busy):
        write(home / f"runs/{name}/history.json", 40)
    with one_at_a_time(home / "runs" / busy):
        assert clean(home, (f"runs/{needed}",)) == [f"runs/{finished}"]
    left = sorted(p.name for p in (home / "runs").iterdir() if p.is_dir())
    assert left == [needed, busy, unfinished]


def test_of_reports_of_one_kind_the_newest_stay(home):
    for month in (1, 2, 3, 4):
        folder = home / f"reports/site-shot-2026-0{month}-01-1200"
        write(folder / "report.html", 400 - 30 * month)
    write(home / "reports/other-bn-2026-01-01-1200/report.html", 400)
    assert clean(home) == ["reports/site-shot-2026-01-01-1200", "reports/site-shot-2026-02-01-1200"]


def test_what_killed_commands_were_writing_goes_after_a_day(home):
    write(home / f"predictions/.{OLD}.77/index.json", 2)
    write(home / f"predictions/.{NEW}.78/index.json", 0.5)
    write(home / f"runs/{OLD}.sealed/images", 2)
    write(home / "decoded/.removed.12/x", 0)  # of a clean that was killed
    write(home / "mlartifacts/models/.removed.34/x", 0)
    write(home / "mlartifacts/models/m-1/x", 400)  # only the store knows who needs it
    assert clean(home) == [
        "decoded/.removed.12",
        "mlartifacts/models/.removed.34",
        f"predictions/.{OLD}.77",
        f"runs/{OLD}.sealed",
    ]


def test_no_link_is_followed(home, tmp_path):
    outside = write(tmp_path / "outside/precious.npy", 400)
    (home / "decoded").symlink_to(outside.parent)
    (home / "predictions").mkdir()
    (home / "predictions" / OLD).symlink_to(outside.parent)
    folder = write(home / f"runs/{OLD}/history.json", 40).parent
    (folder / "epoch-0001").symlink_to(outside.parent)
    os.utime(folder, (NOW - 40 * DAY, NOW - 40 * DAY))
    os.utime(folder / "epoch-0001", (NOW - 40 * DAY,) * 2, follow_symlinks=False)
    assert clean(home) == [f"runs/{OLD}"]
    assert outside.read_bytes() == b"12345678"
    assert size_by_kind(home).get("run folders") is None


def test_sizes_are_summed_by_kind(home):
    write(home / "mlartifacts/models/m-1/artifacts/MLmodel", 1)
    write(home / "mlartifacts/77/artifacts/report.json", 1)
    write(home / "mlflow.db", 1)
    write(home / "answers/1.json", 1)
    sizes = size_by_kind(home)
    assert {kind: (size.bytes, size.files) for kind, size in sizes.items()} == {
        "registered versions": (8, 1),
        "MLflow": (16, 2),
        "requests, audits, targets, data, secrets": (8, 1),
    }


def test_a_person_s_own_files_in_folders_of_these_names_stay(home):
    """Where SFDA_HOME names a folder that has other things, such as a project."""
    theirs = [
        "pictures/summer/a.jpg",
        "pictures/b.png",
        "logs/lab.log",
        "logs/lab.txt",
        "runs/exp1/history.json",
        "predictions/p.csv",
        "parts/gear.stl",
        "reports/2020/q1.pdf",
        "reports/q2.pdf",
        "decoded/.hidden",
        "cards/.git/config",
    ]
    for name in theirs:
        write(home / name, 400)
    ours = [f"pictures/{OLD}-panel.png", "logs/mlflow.log", f"decoded/masks-{OLD}00000000.npy"]
    for name in ours:
        write(home / name, 400)
    assert clean(home) == sorted(ours)
    assert sorted(str(p.relative_to(home)) for p in home.rglob("*") if p.is_file()) == sorted(
        theirs
    )


@pytest.mark.parametrize("where", ["", "inside"])
def test_what_somebody_has_mounted_there_is_left(home, monkeypatch, where):
    """By a `lstat` that tells of another file system, since only root can mount one."""
    file = write(home / "runs" / OLD / where / "history.json", 400)
    write(home / "runs" / OLD / "history.json", 400)
    real, mounted = os.lstat, str(file.parent)

    def lstat(path, **more):
        status = real(path, **more)
        if str(path) != mounted:
            return status
        return os.stat_result((*status[:2], status.st_dev + 1, *status[3:]))

    monkeypatch.setattr(os, "lstat", lstat)
    assert clean(home) == []
    assert file.is_file()
