"""Files take their place whole, and a killed writer leaves nothing for good."""

from __future__ import annotations

from pathlib import Path

import pytest
from killed import kills

from sfda.manifests.write import partial_folder, put


def test_what_a_killed_writer_left_goes_with_the_next_start(tmp_path: Path) -> None:
    old = {tmp_path / "a.yaml": b"old", tmp_path / "a.csv": b"old"}
    new = {tmp_path / "a.csv": b"new", tmp_path / "a.yaml": b"new"}
    left = set()
    put(old)
    for _ in kills(lambda: put(new)):
        left.add(len(list(tmp_path.glob(".a.csv.part-*"))))
        assert {path.read_bytes() for path in old} <= {b"old", b"new"}  # none is half of it
        put(new)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv", "a.yaml"]
        assert {path.read_bytes() for path in old} == {b"new"}
        put(old)
    assert left == {0, 1}


def test_a_writer_that_lives_keeps_its_folder(tmp_path: Path) -> None:
    (tmp_path / ".a.part-mine").write_text("a person's own")
    with partial_folder(tmp_path, "a") as first:
        (first / "content").write_text("x")
        with partial_folder(tmp_path, "a") as second, partial_folder(tmp_path, "b"):
            assert first != second
            assert (first / "content").is_file()
        assert not second.exists()
    assert [path.name for path in tmp_path.iterdir()] == [".a.part-mine"]


def test_it_is_gone_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), partial_folder(tmp_path, "a" * 250):
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
