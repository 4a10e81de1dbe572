"""What README and the page of methods list, is what the folders hold."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import pytest

from sfda import plugins
from sfda.problem_names import PROBLEM_NAMES

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
METHODS = (ROOT / "docs/methods/index.md").read_text(encoding="utf-8")
FEW_LABELS = (ROOT / "docs/few-labels.md").read_text(encoding="utf-8")


def section(text: str, title: str) -> str:
    """The text below a heading, up to the next one."""
    return text.partition(f"## {title}\n")[2].partition("\n#")[0]


def rows(text: str, title: str) -> dict[str, list[str]]:
    """A table's rows by the name in their first column."""
    result = re.findall(r"^\| `(\w+)` \|(.*)\|$", section(text, title), re.M)
    assert [name for name, _ in result] == sorted(name for name, _ in result)
    return {name: [cell.strip() for cell in rest.split("|")] for name, rest in result}


def problems(cell: str) -> set[str]:
    """The problems that a cell names."""
    return set(PROBLEM_NAMES) if cell == "every" else set(cell.split(", "))


@pytest.mark.parametrize(("text", "where"), [(README, "README"), (METHODS, "docs/methods")])
def test_the_method_table_lists_every_method(text: str, where: str) -> None:
    table = rows(text, "Methods")
    assert list(table) == plugins.names("methods"), where
    for name, cells in table.items():
        assert problems(cells[0]) == plugins.load("methods", name).problems, name


def test_the_method_table_has_setting_and_paper_of_the_classes() -> None:
    for name, (_, setting, _, paper) in rows(METHODS, "Methods").items():
        kind = plugins.load("methods", name)
        assert setting == kind.setting, name
        assert paper in (inspect.getmodule(kind).__doc__ or ""), name


def test_the_validator_table_lists_every_validator() -> None:
    table = rows(METHODS, "Validators")
    assert list(table) == plugins.names("validators")
    for name, cells in table.items():
        assert problems(cells[0]) == plugins.load("validators", name).problems, name


def test_the_query_table_lists_every_query() -> None:
    assert list(rows(FEW_LABELS, "Ask")) == plugins.names("queries")


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
