"""The library that travels with a version: one archive, the same each time, enough to serve."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from sfda.problem_names import PROBLEM_NAMES
from tasks.tracking.code_archive import ARCHIVE, LOADER, write_code

SERVES = f"""
import json, sys
sys.path.insert(0, sys.argv[1])
import {LOADER}
from sfda.problems.registry import PROBLEMS
modules = {{name: sys.modules[PROBLEMS[name].served.__module__] for name in PROBLEMS}}
print(json.dumps({{name: module.__file__ for name, module in modules.items()}}))
"""


def test_the_same_library_is_the_same_archive(tmp_path):
    archives = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        assert [Path(file).name for file in write_code(tmp_path / name)] == [
            ARCHIVE,
            f"{LOADER}.py",
        ]
        archives.append((tmp_path / name / ARCHIVE).read_bytes())
    assert archives[0] == archives[1]
    assert len(archives[0]) < 1_000_000  # compressed: the sources are over two megabytes


def test_every_problem_is_served_from_the_archive_alone(tmp_path):
    write_code(tmp_path)
    ended = subprocess.run(
        [sys.executable, "-I", "-c", SERVES, str(tmp_path)],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    files = json.loads(ended.stdout)
    assert sorted(files) == sorted(PROBLEM_NAMES)
    assert all(Path(file).is_relative_to(tmp_path / ARCHIVE) for file in files.values())
