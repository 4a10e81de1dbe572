"""What a restricted process has made is opened without a step aside."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sfda.errors import BadInput
from sfda.sandbox.crossing import copy_within, read_within


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("own/epoch", "source"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "file").write_text(name)
    return tmp_path / "own"


def test_a_regular_file_is_read_and_copied(folder, tmp_path):
    assert read_within(folder, "epoch/file", limit=100) == b"own/epoch"
    copy_within(folder / "epoch", "file", tmp_path / "copy", limit=100)
    assert (tmp_path / "copy").read_text() == "own/epoch"
    (tmp_path / "link").symlink_to(tmp_path)
    assert read_within(tmp_path / "link" / "own", "epoch/file", limit=100), "home may be a link"


def test_links_pipes_folders_and_long_files_are_not(folder, tmp_path):
    source = tmp_path / "source"
    (folder / "link").symlink_to(source / "file")
    (folder / "chain").symlink_to("link")
    (folder / "linked").symlink_to(source)
    os.mkfifo(folder / "pipe")
    (folder / "long").write_bytes(b"x" * 101)
    for name, why in {
        "link": "links are not followed",
        "chain": "links are not followed",
        "linked/file": "links are not followed",
        "epoch/absent": "No such file",
        "pipe": "no regular file",
        "epoch": "no regular file",
        "long": "101 bytes",
    }.items():
        with pytest.raises(BadInput, match=why):
            read_within(folder, name, limit=100)
        with pytest.raises(BadInput, match=why):
            copy_within(folder, name, tmp_path / "copy", limit=100)
        assert not (tmp_path / "copy").exists()
    with pytest.raises(BadInput, match="links are not followed"):
        read_within(folder / "linked", "file", limit=100)
