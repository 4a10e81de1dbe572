"""Digests that are kept from one process to the next."""

from __future__ import annotations

import hashlib
import itertools
import os
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import opens
import pytest

from sfda.images import file_index
from sfda.manifests.digests import file_digest, file_digests, hash_file
from sfda.manifests.growing import survey
from sfda.state_folder import stamp_of

COUNT = 40


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Files whose last change would show."""
    folder = tmp_path_factory.mktemp("old")
    files = [folder / f"{n:02d}.png" for n in range(COUNT)]
    for n, file in enumerate(files):
        file.write_bytes(bytes([n]) * 100)
    (tmp_path_factory.getbasetemp() / "copy.png").write_bytes(files[0].read_bytes())
    (tmp_path_factory.getbasetemp() / "large.zip").write_bytes(b"\0" * (1 << 20))
    time.sleep(2.1)
    return files


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("SFDA_HOME", str(home))
    return home


def right(files: list[Path]) -> list[str]:
    return [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]


def read_again(files: list[Path]) -> int:
    """How many of the files are opened to tell their digests, which must be right."""
    expected = right(files)
    with opens.own_opens() as counter:
        assert list(file_digests((str(file), stamp_of(file)) for file in files)) == expected
    return sum(counter[str(file)] for file in files)


def test_what_is_as_it_was_is_never_read_again(old):
    assert read_again(old) == COUNT
    assert read_again(old) == 0
    assert read_again(old[::-1]) == 0


def test_another_process_finds_the_digests(old):
    code = """
import sys
from sfda.manifests.digests import file_digests
from sfda.state_folder import stamp_of
list(file_digests((p, stamp_of(p)) for p in sys.argv[1:]))
"""
    parts = [old[: COUNT // 2 + 1], old[COUNT // 2 - 1 :], old[::3]]  # at once, and overlapping
    running = [subprocess.Popen([sys.executable, "-c", code, *map(str, part)]) for part in parts]
    assert [one.wait(120) for one in running] == [0, 0, 0]
    assert read_again(old) == 0


def test_processes_that_make_it_at_once_keep_each_others_rows(old):
    for _ in range(5):
        file_index._delete(file_index.index_file())
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(keep_one, old[:8]))
        assert read_again(old[:8]) == 0


def keep_one(file: Path) -> None:
    with file_index.open_index() as index:
        assert index is not None
        index.add([(str(file), stamp_of(file), hash_file(file))])


def test_files_that_have_just_been_written_are_read_again(tmp_path):
    file = tmp_path / "new.png"
    file.write_bytes(b"a")
    assert read_again([file]) == 1
    file.write_bytes(b"b")  # perhaps within the same tick of the clock
    assert read_again([file]) == 1


def test_a_change_shows_though_size_and_time_are_set_back(old):
    file = old[0].parents[1] / "copy.png"
    before = file.stat()
    assert read_again([file]) == 1
    assert read_again([file]) == 0
    file.write_bytes(old[1].read_bytes())
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = file.stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert read_again([file]) == 1


def foreign(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE digests (file TEXT)")


def of_another_layout(path: Path) -> None:
    foreign(path)
    with closing(sqlite3.connect(path)) as database:
        database.execute(f"PRAGMA application_id = {file_index.INDEX_MARK[0]}")
        database.execute(f"PRAGMA user_version = {file_index.INDEX_MARK[1]}")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda p: p.write_bytes(b"no database" * 99),
        foreign,
        of_another_layout,
        lambda p: p.write_bytes(b""),
    ],
)
def test_a_file_that_is_damaged_or_not_ours_is_made_anew(old, spoil):
    spoil(file_index.index_file())
    assert read_again(old) == COUNT
    assert read_again(old) == 0


@pytest.mark.parametrize("first", [1, 4])
def test_damaged_pages_make_no_digest_wrong_and_do_not_stay(old, first):
    read_again(old)
    with file_index.open_index() as index:
        near = old[0].parent  # rows of one folder lie among each other, on many pages
        index.add([(f"{near}/{n}", stamp_of(old[0]), "00" * 32) for n in range(2000)])
    file = file_index.index_file()
    pages = len(file.read_bytes()) // 4096
    assert pages > 20
    with file.open("r+b") as handle:
        handle.seek((first % pages) * 4096)
        handle.write(b"\xff" * 4096 * (pages - first % pages))
    assert read_again(old) > 0
    read_again(old)  # the first may have met the damage half-way
    assert read_again(old) == 0


def test_without_a_home_none_is_made(old, monkeypatch, tmp_path):
    monkeypatch.setenv("SFDA_HOME", str(tmp_path / "nowhere"))
    assert read_again(old) == COUNT
    assert read_again(old) == 0  # within one process
    assert not (tmp_path / "nowhere").exists()


def test_rows_of_one_folder_lie_side_by_side(old):
    """So a page of the database is written once for many of them."""
    stamp = stamp_of(old[0])
    with file_index.open_index() as index:
        index.add([(f"/{n % 5}/{n}", stamp, f"{n % 5:064x}") for n in range(50)])
        assert len(index.known([(f"/{n % 5}/{n}", stamp) for n in range(50)])) == 50
    with closing(sqlite3.connect(file_index.index_file())) as database:
        folders = [row[0] for row in database.execute("SELECT digest FROM digests ORDER BY file")]
    assert sum(one != after for one, after in itertools.pairwise(folders)) == 4


def test_what_cannot_be_read_is_named(tmp_path):
    with pytest.raises(IsADirectoryError) as caught:
        hash_file(tmp_path)
    assert caught.value.filename == str(tmp_path)


def test_the_index_is_its_owners_alone(old):
    read_again(old)
    assert file_index.index_file().stat().st_mode & 0o777 == 0o600


def test_a_large_file_counts_for_other_processes_too(old):
    file = old[0].parents[1] / "large.zip"
    digest = file_digest(file)
    with file_index.open_index() as index:
        assert index is not None
        assert index.known([(str(file), stamp_of(file))]) == {str(file): digest}


def test_the_first_survey_of_a_folder_reads_what_no_one_has_read(old):
    list(file_digests((str(file), stamp_of(file)) for file in old[:30]))
    with opens.own_opens() as counter:
        marks, fresh = survey(old[0].parent, {}, settle=0, now=time.time())
    assert not fresh
    assert [mark.sha256 for mark in marks.values()] == right(old)
    assert [counter[str(file)] for file in old] == [0] * 30 + [1] * 10
    with opens.own_opens() as counter:
        survey(old[0].parent, marks, settle=0, now=time.time())
    assert not [file for file in old if counter[str(file)]]
