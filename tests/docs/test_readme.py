"""What the tables of README and docs say, the classes say; and README's lines of Python run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from sfda import plugins
from tests.docs import tables

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
METHODS = next(t for t in tables.TABLES if t.page == "docs/methods/index.md")


def section(text: str, title: str) -> str:
    """The text below a heading, up to the next one."""
    return text.partition(f"## {title}\n")[2].partition("\n#")[0]


@pytest.mark.parametrize("table", tables.TABLES, ids=lambda table: f"{table.page} {table.heading}")
def test_rows_of_tables_are_as_the_classes_say(table: tables.Table) -> None:
    """`make docs` writes them. A class that has come since needs no row yet, so that a new method
    is one file and its test; what stands there is true and in order.
    """
    text = (ROOT / table.page).read_text(encoding="utf-8")
    start, end = tables.shown(table, text)
    made = tables.lines_of(table)
    lines = text[start:end].splitlines()
    assert lines == [line for line in made if line in set(lines)], "python -m tests.docs.tables"
    assert len(lines) > 2


def test_ideas_and_papers_are_read_off_the_classes() -> None:
    cells = {name: tables.row(METHODS, name).split(" | ") for name in tables.own_names("methods")}
    assert cells["aad"][1:3] == ["classification", "closed set"]
    assert cells["mean_teacher"][1] == "every"
    assert cells["aad"][3].startswith("neighbours in feature space")
    assert cells["aad"][4] == "arXiv:2205.04183 |"
    assert tables.paper_of(plugins.load("validators", "infomax")) == "Krause et al., NeurIPS 2010"
    assert tables.paper_of(plugins.load("queries", "random")) == ""


def test_the_lines_of_python_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As they stand there: ten lines, which leave a bundle and nothing else."""
    (code,) = re.findall(r"```python\n(.*?)```", section(README, "In Python"), re.S)
    assert len([line for line in code.splitlines() if line]) <= 10
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SFDA_HOME", str(tmp_path / "home"))
    names: dict[str, Any] = {}
    exec(code, names)
    assert 0 <= names["result"].change <= 1
    assert [path.name for path in tmp_path.iterdir()] == ["adapted"]
    opened = names["sfda"].load("adapted")
    assert opened.spec.classes == ("cat", "dog", "owl")
    assert opened.sha256 == names["result"].model.sha256


def test_readme_is_short() -> None:
    assert len(README.splitlines()) <= 200
