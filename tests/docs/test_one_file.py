"""A new method, validator, query or family is one file: nothing else is touched."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
METHOD = '''"""Nudge: entropy minimisation (arXiv:1711.10288)."""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from sfda.building_blocks.losses import entropy
from sfda.methods._base import Method, MethodConfig
from sfda.problems.classification.network import Classifier
from sfda.types import Clock, Losses, TargetBatch


class NudgeConfig(MethodConfig):
    """Defaults: those of all methods."""


class Nudge(Method):
    """Predictions become a little surer."""

    Config = NudgeConfig
    networks: ClassVar[tuple[type[nn.Module], ...]] = (Classifier,)

    def losses(self, batch: TargetBatch, clock: Clock) -> Losses:
        """Entropy in nats, at a tenth of its weight."""
        return {"entropy": 0.1 * entropy(self.student(batch.weak).logits.softmax(1)).mean()}


EXPORT = Nudge
'''
VALIDATOR = '''"""The surest answer (arXiv:1711.10288)."""

from __future__ import annotations

from sfda.validators.infomax import EXPORT as Infomax


class Surest(Infomax):
    """Information, under another name."""


EXPORT = Surest
'''
QUERY = '''"""The rows that come first (Settles, Madison 2009)."""

from __future__ import annotations

from sfda.queries.random import EXPORT as Random


class First(Random):
    """A draw, under another name."""


EXPORT = First
'''
FAMILY = '''"""The networks of a laboratory."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar

from sfda.networks.families._base import Answer
from sfda.networks.families.sfda import EXPORT as Own


class Lab(Own):
    """Whatever our own family has."""

    forms: ClassVar[Mapping[Answer, str]] = MappingProxyType({})


EXPORT = Lab
'''
NEW = {
    "sfda/methods/nudge.py": METHOD,
    "sfda/validators/surest.py": VALIDATOR,
    "sfda/queries/first.py": QUERY,
    "sfda/networks/families/lab.py": FAMILY,
}
CHECKED = (  # all that lists what the folders hold, or reads every file
    "tests/test_house.py", "tests/docs/test_docs.py", "tests/docs/test_readme.py",
    "tests/sfda/methods/test_methods.py", "tests/sfda/validators", "tests/sfda/queries",
    "tests/sfda/networks/test_families.py", "tests/sfda/test_plugins.py",
    "tests/sfda/test_plugin_sources.py",
    "tests/flows/test_forms.py",
)  # fmt: skip
LEFT_OUT = "not pages_build and not lines_of_python and not one_file"
"""What takes long and lists nothing."""


@pytest.mark.slow
@pytest.mark.stack
def test_a_file_each_leaves_all_tests_green(tmp_path: Path) -> None:
    """In a copy of what is there; the new classes go through the contract tests unasked."""
    for name in ("sfda", "tasks", "flows", "tests", "docs", "infra", "data_manifests", "bench"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ROOT.iterdir():
        if file.is_file():
            shutil.copy(file, tmp_path)
    for name, text in NEW.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", LEFT_OUT, *CHECKED],
        cwd=tmp_path, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-5000:]
    listed = subprocess.run(
        [sys.executable, "-m", "tests.docs.tables", "--write"], cwd=tmp_path, check=True,
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(tmp_path)},
    ).stdout  # fmt: skip
    assert listed.count("written anew") == 5
    table = (tmp_path / "docs/methods/index.md").read_text(encoding="utf-8")
    row = "| `nudge` | classification | closed set | Predictions become a little surer | arXiv:"
    assert row in table
    assert "| `nudge` |" in (tmp_path / "README.md").read_text(encoding="utf-8")
