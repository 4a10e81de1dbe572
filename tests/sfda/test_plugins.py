"""Plug-ins of other distributions: ours cannot be replaced, a broken one breaks nothing."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from flows.cli.methods_table import describe_methods
from sfda import plugins
from sfda.errors import BadInput
from sfda.methods.shot import Shot
from sfda.plugin_sources import plugin_sources
from sfda.settings import MethodName

MODULES = {
    "otherlab_good": (
        '"""Other: a method of somebody else\'s."""\n'
        "from sfda.methods.bn import EXPORT\n"
        "class Other(EXPORT):\n    pass\n"
    ),
    "otherlab_thief": "class Thief:\n    problems = frozenset()\n",
    "otherlab_broken": "import a_module_that_is_not_there\n",
    "otherlab_exits": "raise SystemExit(3)\n",
    "otherlab_odd": "nothing = 3\n",
    "otherlab_dies": "raise GeneratorExit\n",
    "otherlab_guarded": (
        "class Guard(type):\n"
        "    def __getattribute__(kind, name):\n        raise RuntimeError(name)\n"
        "class Guarded(metaclass=Guard):\n    problems = frozenset()\n"
    ),
    "otherlab_all": "class All:\n    problems = answers = 'all'\n",
}
ENTRIES = """
shot = otherlab_thief:Thief
other = otherlab_good:Other
broken = otherlab_broken:Broken
exits = otherlab_exits:Exits
absent = otherlab_good:Absent
lost = otherlab.lost.deeper:Lost
odd = otherlab_odd:nothing
dies = otherlab_dies:Dies
guarded = otherlab_guarded:Guarded
all = otherlab_all:All
"""
ODD_NAMES = ("Shot", "last", "supervised", "auto", "a b", "../shot", "x" * 500 + "!", "näme")
LEFT_OUT = ("broken", "exits", "absent", "lost", "odd", "dies", "guarded", "all")


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A distribution on the path that adds these to each of the three folders."""
    for name, text in MODULES.items():
        (tmp_path / f"{name}.py").write_text(text)
    facts = tmp_path / "other_lab-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: other-lab\nVersion: 1.0\n")
    groups = [f"[sfda.{folder}]\n{ENTRIES}" for folder in plugins.OPEN_FOLDERS]
    (facts / "entry_points.txt").write_text(
        "\n".join(groups).replace("[sfda.validators]", "[sfda.validators]\nentropy = x:Y")
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    for name in MODULES:
        sys.modules.pop(name, None)


def test_our_names_cannot_be_taken(installed: None, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "sfda"):
        for _ in range(3):
            assert plugins.load("methods", "shot") is Shot
            assert plugins.names("methods").count("shot") == 1
        assert plugins.load("validators", "entropy").__module__ == "sfda.validators.entropy"
    plugins.load("methods", "other")
    ours = [r.getMessage() for r in caplog.records if "'shot' of other-lab" in r.getMessage()]
    assert len([text for text in ours if "sfda.methods" in text]) == 1  # once
    assert "otherlab_thief" not in sys.modules  # what may not be used is not imported under methods


@pytest.mark.parametrize("folder", plugins.OPEN_FOLDERS)
def test_a_broken_plug_in_is_named_and_left_out(
    installed: None, caplog: pytest.LogCaptureFixture, folder: str
) -> None:
    with caplog.at_level(logging.WARNING, "sfda"):
        names = plugins.names(folder)
    assert "other" in names
    assert not set(LEFT_OUT) & set(names)
    output = "\n".join(record.getMessage() for record in caplog.records)
    for name in LEFT_OUT:
        assert f"sfda.{folder}: '{name}' of other-lab" in output
        with pytest.raises(BadInput, match=f"no '{name}' in sfda.{folder}"):
            plugins.load(folder, name)
    assert plugins.load(folder, "other").__name__ == "Other"


def test_odd_names_and_words_that_mean_something_else_cannot_be_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "otherlab_named.py").write_text(MODULES["otherlab_good"])
    facts = tmp_path / "odd_lab-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: odd-lab\nVersion: 1.0\n")
    lines = [f"{name} = otherlab_named:Other" for name in (*ODD_NAMES, "fine_2")]
    (facts / "entry_points.txt").write_text("\n".join(["[sfda.methods]", *lines]), "utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    with caplog.at_level(logging.WARNING, "sfda"):
        names = set(plugins.names("methods"))
    assert "fine_2" in names
    assert not names & set(ODD_NAMES)
    output = [r.getMessage() for r in caplog.records if "odd-lab" in r.getMessage()]
    assert len(output) == len(ODD_NAMES)
    assert max(map(len, output)) < 250


def test_table_form_and_digest_go_on(installed: None) -> None:
    rows = {row["name"]: row for row in describe_methods()}
    assert rows["other"]["says"] == "Other: a method of somebody else's."
    assert "broken" not in rows
    assert {"shot", "other"} <= set(TypeAdapter(MethodName).json_schema()["enum"])
    names = [name for name, _ in plugin_sources().files()]
    assert names == ["otherlab_good/", "otherlab_thief/"]  # the latter is a validator there


def test_what_is_installed_and_whole_is_not_spoken_of(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "sfda"):
        for folder in plugins.OPEN_FOLDERS:
            plugins.names(folder)
    assert not caplog.records
