"""Tables as CSV: what is read of them, and what that costs."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest

from sfda.errors import BadInput
from sfda.formats.table import Table, read_csv


def test_rows_are_read_by_the_names_of_their_columns(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text('\nfile,class,split\n"a,1.png",cat,adapt\n\nb.png,dog\nc.png,,test\n')
    rows, header = read_csv(file)
    assert header == ["file", "class", "split"]
    assert len(rows) == 3
    assert rows[1] == {"file": "b.png", "class": "dog", "split": ""}
    assert [row["file"] for row in rows[1:]] == ["b.png", "c.png"]
    assert list(rows.where("split", "adapt")) == [
        {"file": "a,1.png", "class": "cat", "split": "adapt"}
    ]
    assert rows.columns["class"] == ["cat", "dog", ""]
    assert rows


def test_a_table_without_rows_has_none(tmp_path: Path) -> None:
    for text in ("", "file\n"):
        (tmp_path / "a.csv").write_text(text)
        rows, _ = read_csv(tmp_path / "a.csv")
        assert (len(rows), list(rows)) == (0, [])
    assert not Table({})


def test_more_cells_than_there_are_columns_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.csv").write_text("file,class\na.png,cat,dog\n")
    with pytest.raises(BadInput, match="more cells than its header"):
        read_csv(tmp_path / "a.csv")
    (tmp_path / "a.csv").write_text("file,class\n" + "a.png,cat\n" * 3)
    monkeypatch.setenv("SFDA_LIMIT_TABLE_CELLS", "4")
    with pytest.raises(BadInput, match="rows of 2 columns are more than 4 cells"):
        read_csv(tmp_path / "a.csv")


LONG = 10_000_000


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("," * LONG, "a row of more than 1048576 characters"),
        ("file,class\n" + "," * LONG, "a row of more than 1048576 characters"),
        ("file,class\n" + '"\n",' * (LONG // 4), "a row of more than 1048576 characters"),
        ("," * 10_000, "it has 10001 columns, more than 10000"),
        ("file,a,file\n", "several columns of one name: file"),
    ],
    ids=["header", "row", "row of many lines", "columns", "names"],
)
def test_a_row_is_refused_before_it_is_split(tmp_path: Path, text: str, fault: str) -> None:
    (tmp_path / "a.csv").write_text(text)
    tracemalloc.start()
    try:
        with pytest.raises(BadInput, match=fault):
            read_csv(tmp_path / "a.csv")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 40_000_000  # split, ten million commas take 80 MB and the text besides


def test_columns_without_a_name_may_be_several(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("file,,\na.png,,\n")
    assert read_csv(tmp_path / "a.csv")[0].columns["file"] == ["a.png"]


def test_a_row_costs_its_cells_and_little_more(tmp_path: Path) -> None:
    """A cell of 20 characters takes 69 bytes and its address 8; a dictionary would take 184."""
    (tmp_path / "a.csv").write_text(
        "file\n" + "".join(f"0000/{n:011d}.png\n" for n in range(20000))
    )
    tracemalloc.start()
    try:
        rows, _ = read_csv(tmp_path / "a.csv")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(rows) == 20000
    assert peak / len(rows) < 180  # with the buffer that the file is read by


def test_manifests_are_opened_without_the_compiler_that_torchvision_brings() -> None:
    """150 MB, which a manifest of a million rows does not have to spare."""
    code = "import sys, sfda.loading.opened; print('torchvision' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "False"
