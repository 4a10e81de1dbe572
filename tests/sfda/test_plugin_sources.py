"""What of a plug-in is read, counted and made readable; files of a person's own as plug-ins."""

from __future__ import annotations

import logging
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import sfda
from flows.cli.code_files import split_files
from sfda import plugins
from sfda.errors import BadInput
from sfda.plugin_sources import (
    library_versions,
    linked,
    plugin_digest,
    plugin_paths,
    plugin_sources,
    sources_of,
)
from sfda.plugins import CODE_FILES
from sfda.sandbox import process
from sfda.sandbox.landlock import abi
from tasks.prefect_runtime import cache

METHOD = '''"""Mine: the source as it is."""
from lab_core.sums import nothing
from sfda.methods.source import EXPORT
import data_beside
class Mine(EXPORT):
    amount = nothing
class Other:
    problems = frozenset({"pose"})
'''
FILES = {
    "lab/__init__.py": "",
    "lab/ways/__init__.py": "",
    "lab/ways/mine.py": METHOD,
    "lab/unused.py": "x = 1\n",
    "lab_core/__init__.py": "",
    "lab_core/sums.py": "nothing = 0\n",
    "data_beside/secret.py": "y = 1\n",  # no package: a folder that happens to be called so
    "lab_single.py": "from sfda.validators.entropy import EXPORT\nclass Single(EXPORT): pass\n",
    "beside.py": "z = 1\n",
}


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A distribution whose metadata lie in one folder and whose code in another."""
    code, site = tmp_path / "code", tmp_path / "site"
    for name, text in FILES.items():
        (code / name).parent.mkdir(parents=True, exist_ok=True)
        (code / name).write_text(text)
    facts = site / "lab-1.0.dist-info"
    facts.mkdir(parents=True)
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: lab\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text(
        "[sfda.methods]\nmine = lab.ways.mine:Mine\n[sfda.validators]\nsingle = lab_single:Single\n"
    )
    for folder in (code, site):
        monkeypatch.syspath_prepend(str(folder))
    yield tmp_path
    for name in [
        n for n in sys.modules if n.partition(".")[0] in ("lab", "lab_core", "lab_single")
    ]:
        del sys.modules[name]


def test_a_plug_in_is_its_whole_package_and_those_beside_it_that_it_imports(lab: Path) -> None:
    names = [name for name, _ in plugin_sources().files()]
    assert [name for name in names if name.startswith("lab")] == [
        "lab/__init__.py", "lab/unused.py", "lab/ways/__init__.py", "lab/ways/mine.py",
        "lab_core/__init__.py", "lab_core/sums.py", "lab_single/",
    ]  # fmt: skip
    assert "data_beside" in plugin_sources().installed


def test_the_sandbox_may_read_packages_and_not_what_lies_beside_them(lab: Path) -> None:
    read, by_name = plugin_paths()
    code, site = lab / "code", lab / "site"
    own = {path for path in read if path.is_relative_to(lab)}
    assert own == {
        code / "lab", code / "lab_core", code / "lab_single.py", site / "lab-1.0.dist-info"
    }  # fmt: skip
    assert own <= set(by_name)


INSIDE = """
import os
from pathlib import Path

def look(order, send):
    from sfda import plugins
    from sfda.plugin_sources import plugin_digest

    def closed(folder):
        try:
            return not os.listdir(folder)
        except PermissionError:
            return True

    return {
        "names": plugins.names("methods"),
        "amount": plugins.load("methods", "mine").amount,
        "digest": plugin_digest(),
        "closed": [folder for folder in order["folders"] if closed(folder)],
    }
"""


@pytest.mark.skipif(abi() < 1, reason="this kernel offers no Landlock")
def test_a_plug_in_works_inside_and_what_lies_beside_it_is_not_listed(
    lab: Path, tmp_path: Path
) -> None:
    mine = lab / "code/lab/ways/mine.py"
    mine.write_text(METHOD.replace("import data_beside\n", ""))
    (tmp_path / "probe").mkdir()
    (tmp_path / "probe" / "probe.py").write_text(INSIDE)
    (tmp_path / "views").mkdir()
    read, by_name = plugin_paths()
    folders = [lab, lab / "code", lab / "site", Path(sfda.__file__).parents[1]]
    job = process.SandboxJob(
        work="probe:look",
        order={"folders": list(map(str, folders))},
        folder=tmp_path / "own",
        read=[*process.system_paths(read), tmp_path / "probe", tmp_path / "views"],
        modules=[tmp_path / "probe", *linked(by_name, tmp_path / "views")],
    )
    result = process.run_job(job, lambda _: None).result
    assert "mine" in result["names"]
    assert result["amount"] == plugins.load("methods", "mine").amount
    assert result["digest"] == plugin_digest()
    assert result["closed"] == list(map(str, folders))


def test_two_of_one_name_are_both_looked_up(tmp_path: Path) -> None:
    paths = [tmp_path / "a" / "lab", tmp_path / "b" / "lab", tmp_path / "b" / "more.py"]
    folders = linked(paths, tmp_path)
    assert [[one.name for one in sorted(f.iterdir())] for f in folders] == [
        ["lab", "more.py"], ["lab"]
    ]  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        lambda lab: (lab / "code/lab/unused.py").write_text("x = 2\n"),
        lambda lab: (lab / "code/lab_core/sums.py").write_text("nothing = 1\n"),
        lambda lab: (lab / "code/lab/ways/more.py").write_text(""),
        lambda lab: (lab / "code/lab_single.py").write_text(FILES["lab_single.py"] + "\n"),
        lambda lab: (lab / "site/lab-1.0.dist-info/METADATA").write_text(
            "Metadata-Version: 2.1\nName: lab\nVersion: 1.1\n"
        ),
    ],
)
def test_any_change_of_it_makes_results_stale(lab: Path, change: Callable[[Path], object]) -> None:
    before, key = plugin_digest(), cache.code_digest()
    assert (plugin_digest(), cache.code_digest()) == (before, key)
    change(lab)
    assert plugin_digest() != before
    assert cache.code_digest() != key


def test_metadata_in_two_places_are_of_one_distribution(
    lab: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(lab / "site/lab-1.0.dist-info", lab / "code/lab-1.0.dist-info")
    with caplog.at_level(logging.WARNING, "sfda"):
        assert "mine" in plugins.names("methods")
    assert not caplog.records


def test_what_lies_beside_it_does_not(lab: Path) -> None:
    before = plugin_digest()
    (lab / "code/beside.py").write_text("z = 2\n")
    (lab / "code/data_beside/secret.py").write_text("y = 2\n")
    assert plugin_digest() == before


def test_another_torch_makes_results_stale(monkeypatch: pytest.MonkeyPatch) -> None:
    before, versions = cache.code_digest(), library_versions()
    assert all(versions.values())
    assert library_versions() is versions, "metadata on disk are read once"
    for name in versions:
        monkeypatch.setattr(cache, "library_versions", lambda n=name: versions | {n: "0.0"})
        assert cache.code_digest() != before


def test_ours_and_python_s_are_no_plug_ins() -> None:
    sources = sources_of(["sfda.methods.shot", "json"])
    assert (sources.packages, sources.installed) == ({}, frozenset())


@pytest.fixture
def my_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "my_method.py"
    file.write_text(METHOD.replace("from lab_core.sums import nothing", "nothing = 0")
                    .replace("import data_beside\n", ""))  # fmt: skip
    monkeypatch.setenv(CODE_FILES, f"{file}:Mine")
    return file


def test_a_class_of_a_file_is_known_by_its_name(my_file: Path) -> None:
    kind = plugins.load("methods", "Mine")
    assert kind.amount == 0
    assert "Mine" in plugins.names("methods")
    assert "Mine" not in {*plugins.names("validators"), *plugins.names("queries")}
    read, by_name = plugin_paths()
    assert my_file in read
    assert my_file not in by_name
    before = plugin_digest()
    my_file.write_text(my_file.read_text().replace("nothing = 0", "nothing = 1"))
    assert plugin_digest() != before
    assert plugins.load("methods", "Mine").amount == 1, "the file is what it is now"


@pytest.mark.parametrize(
    "text",
    [
        "from sfda.methods.shot import EXPORT as Mine\n",
        "from sfda.methods.shot import EXPORT\nMine = EXPORT\n",
    ],
)
def test_a_file_that_only_names_a_class_counts(my_file: Path, text: str) -> None:
    my_file.write_text(text)
    assert plugins.load("methods", "Mine") is plugins.load("methods", "shot")
    assert my_file in plugin_paths()[0]
    before = plugin_digest()
    my_file.write_text(text + "EXPORT = None\n")
    assert plugin_digest() != before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import nowhere_at_all\nclass Mine: pass", "Mine cannot be imported .ModuleNotFoundError"),
        ("raise SystemExit(3)", "cannot be imported .SystemExit: 3"),
        ("class Mine: pass", "is no class that derives from one of sfda.methods._base"),
        ("Mine = 3", "is no class that derives"),
        ("class Mine(", "cannot be imported .SyntaxError"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(my_file: Path, text: str, message: str) -> None:
    my_file.write_text(text)
    with pytest.raises(BadInput, match=message) as refused:
        plugins.load("methods", "Mine")
    assert str(my_file) in str(refused.value)
    assert "shot" in plugins.names("methods"), "all else works on"


@pytest.mark.parametrize("text", ["mine.py:Mine", "/a/mine.txt:Mine", "/a/mine.py:", "/a/mine.py"])
def test_what_names_no_class_of_a_file_is_refused(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CODE_FILES, text)
    with pytest.raises(BadInput, match=r"FILE\.py:Class"):
        plugins.names("methods")


def test_a_file_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CODE_FILES, "/nowhere/mine.py:Mine")
    with pytest.raises(BadInput, match=r"/nowhere/mine.py:Mine: the file cannot be read"):
        plugins.load("methods", "Mine")


def test_ours_cannot_be_taken_by_a_file(my_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    my_file.write_text(my_file.read_text() + "shot = type('shot', (EXPORT,), {})\n")
    monkeypatch.setenv(CODE_FILES, f"{my_file}:shot")
    assert plugins.load("methods", "shot").__module__ == "sfda.methods.shot"


def test_options_name_files_by_their_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names, files = split_files("./a.py:A, shot,b/c.py:C")
    assert names == "A,shot,C" or names == "A, shot,C"
    assert files == [f"{tmp_path}/a.py:A", f"{tmp_path}/b/c.py:C"]
    assert split_files("shot") == ("shot", [])
    assert CODE_FILES not in os.environ
