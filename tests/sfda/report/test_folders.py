"""Folders of reports: names, two runs at once, and a disk that takes nothing more."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path

import pytest

from sfda.errors import BadInput
from sfda.report.folders import REPORT_FILE, new_report_folder, write_into

NOW = datetime(2026, 3, 9, 7, 5)


@pytest.fixture(autouse=True)
def home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("SFDA_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_a_name_says_target_method_and_date(home_folder):
    folder = new_report_folder("digits/usps", "shot", NOW)
    assert folder == home_folder / "reports" / "digits-usps-shot-2026-03-09-0705"
    odd = new_report_folder("../../\u202e<b>", "a" * 300, NOW)
    assert odd.parent == home_folder / "reports"
    assert odd.name == f"b-{'a' * 40}-2026-03-09-0705"


def test_runs_at_the_same_minute_never_share_one():
    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(lambda _: new_report_folder("a", "b", NOW), range(20)))
    assert len(set(folders)) == 20


def test_a_read_only_folder_is_one_message(home_folder, monkeypatch):
    make = Path.mkdir

    def refuse(self, *args, **options):
        if self.parent.name == "reports":
            raise OSError(30, "Read-only file system")
        make(self, *args, **options)

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(BadInput, match=r"cannot write .*reports/a-b-.*Read-only.*SFDA_HOME"):
        new_report_folder("a", "b", NOW)


def test_a_full_disk_leaves_no_half_written_file():
    folder = new_report_folder("a", "b", NOW)
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    os.symlink("/dev/full", folder / f".{REPORT_FILE}")  # a write there fails as on a full disk
    with pytest.raises(BadInput, match="No space left on device; free some space"):
        write_into(folder, {"table.md": b"x", REPORT_FILE: b"x" * 100})
    assert not folder.exists()


def test_what_is_written_is_whole():
    folder = new_report_folder("a", "b", NOW)
    write_into(folder, {REPORT_FILE: b"page", "table.md": b"table"})
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == {
        REPORT_FILE: b"page",
        "table.md": b"table",
    }
