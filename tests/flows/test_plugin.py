"""A stranger's distribution, and a file of one's own: checked, and adapted with in the sandbox."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import small
import torch
from conftest import Home, World, sfda

from sfda import plugins
from sfda.plugins import CODE_FILES
from sfda.problems.registry import PROBLEMS
from sfda.sandbox.landlock import abi
from sfda.testing import check_method, check_network, check_query, check_validator

PLUGIN = Path(__file__).parent.parent / "plugin"
ADAPT = ["adapt", "--name", "toy", "--epochs", 2, "--json", "--device", "cpu"] + [
    word for name, value in small.FAST.items() for word in ("--set", f"schedule.{name}={value}")
]
pytestmark = pytest.mark.flow
sandboxed = pytest.mark.skipif(abi() < 1, reason="this kernel offers no Landlock")


@pytest.fixture(scope="module")
def distribution(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """What pip makes of it, offline; and the sources that it was made of."""
    folder = tmp_path_factory.mktemp("plugin")
    sources, installed = folder / "sources", folder / "installed"
    shutil.copytree(PLUGIN, sources, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps",
         "--no-build-isolation", "--target", str(installed), str(sources)],
        check=True,
        capture_output=True,
    )  # fmt: skip
    return installed, sources


@pytest.fixture(params=["installed", "editable"])
def plugin(
    request: pytest.FixtureRequest, distribution: tuple[Path, Path], tmp_path: Path
) -> Iterator[Path]:
    """The folder of its packages, for this process and those that it starts.

    Of an editable install the packages' folder has metadata alone, and a path leads to the sources.
    """
    installed, sources = distribution
    folder, paths = installed, [installed]
    if request.param == "editable":
        shutil.copytree(next(installed.glob("*.dist-info")), tmp_path / "site/mylab-1.0.dist-info")
        folder = shutil.copytree(sources, tmp_path / "sources")
        paths = [tmp_path / "site", folder]
    with pytest.MonkeyPatch.context() as patch:
        for path in reversed(paths):
            patch.syspath_prepend(str(path))
        patch.setenv("PYTHONPATH", os.pathsep.join(map(str, paths)))
        yield folder
    for name in [n for n in sys.modules if n.partition(".")[0] == "mylab_plugin"]:
        del sys.modules[name]
    importlib.invalidate_caches()


def adapted(home: Home, world: World, *words: object) -> Any:
    with home.entered():
        output = sfda(*ADAPT, "--source", world.bundle, "--target", world.target, *words)
        assert output.code == 0, output.err
        return output.json


@pytest.mark.slow  # pip
def test_it_keeps_the_contracts(plugin: Path) -> None:
    check_method(plugins.load("methods", "sharpen"), problem="classification")
    check_validator(plugins.load("validators", "peak"), settings={"power": 2.0})
    check_query(plugins.load("queries", "surest"))
    problem = PROBLEMS["classification"]
    spec = problem.make_spec("mylab:small", small.CLASSES)
    images = torch.randn(6, 3, *spec.input.size, generator=torch.Generator().manual_seed(0))
    check_network(problem.build_from_spec(spec), images, "classification")


@pytest.mark.slow  # pip, and adaptations in sandboxes: half a minute each
@sandboxed
def test_it_adapts_in_the_sandbox_and_its_helper_counts(
    world: World, plugin: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.delenv("SFDA_CONFINE")
    home = world.home(f"plugin-{request.node.callspec.id}")
    words = ["--method", "sharpen", "--select-by", "peak", "--set", "validators.peak.power=2"]
    first = adapted(home, world, *words)
    assert first["version"] == "1"
    assert set(first["scores"]) >= {"peak", "entropy"}
    helper = plugin / "mylab_plugin" / "sums.py"
    text = helper.read_text()
    helper.write_text(text.replace("return -torch", "return -2 * torch"))
    try:
        second = adapted(home, world, *words)
    finally:
        helper.write_text(text)
    assert second["scores"] != first["scores"], "an earlier result stood in for other code"


@pytest.mark.slow  # pip, and adaptations in sandboxes: half a minute each
@sandboxed
def test_a_file_of_ones_own_adapts_in_the_sandbox(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = (PLUGIN / "mylab_plugin/ways/sharpen.py").read_text()
    helper = (PLUGIN / "mylab_plugin/sums.py").read_text().partition("import torch\n")[2]
    line = "from mylab_plugin.sums import entropy_of\n"
    file = tmp_path / "my_method.py"
    file.write_text(source.replace(line, "from torch import Tensor\n") + helper.partition("\n")[2])
    (tmp_path / "my_score.py").write_text((PLUGIN / "mylab_plugin/peak.py").read_text())
    monkeypatch.delenv("SFDA_CONFINE")
    monkeypatch.chdir(tmp_path)
    home = world.home("plugin-file")
    words = ["--method", "./my_method.py:Sharpen", "--select-by", "my_score.py:Peak"]
    first = adapted(home, world, *words)
    assert first["version"] == "1"
    assert "Peak" in first["scores"]
    assert CODE_FILES not in os.environ
    file.write_text(file.read_text().replace('{"sharp": ', '{"sharp": 2 * '))
    assert adapted(home, world, *words)["scores"] != first["scores"]


@pytest.mark.parametrize(
    ("option", "text", "message"),
    [
        (
            "--method",
            "import nowhere_at_all",
            "mine.py:Mine cannot be imported (ModuleNotFoundError",
        ),
        (
            "--method",
            "class Mine: pass",
            "mine.py:Mine is no class that derives from one of sfda.methods",
        ),
        ("--select-by", "raise SystemExit(0)", "mine.py:Mine cannot be imported (SystemExit: 0)"),
        ("--method", None, "mine.py:Mine: the file cannot be read (No such file or directory)"),
    ],
)
def test_a_file_that_cannot_be_used_ends_with_one_message(
    world: World,
    template_store: Path,
    tmp_path: Path,
    option: str,
    text: str | None,
    message: str,
) -> None:
    if text is not None:
        (tmp_path / "mine.py").write_text(text)
    home = Home(tmp_path / "home")
    home.path.mkdir()
    shutil.copy(template_store, home.path / "mlflow.db")
    words = ["--source", world.bundle, "--target", world.target, option, f"{tmp_path}/mine.py:Mine"]
    with home.entered():
        output = sfda(*ADAPT, *words)
    assert output.code == 2, output.err
    assert message in output.err
    assert "Traceback" not in output.err
    lines = [line for line in output.err.splitlines() if line.startswith("sfda: ")]
    assert len(lines) == 1
    assert CODE_FILES not in os.environ
