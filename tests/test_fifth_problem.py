"""A problem is its folder, and few other files that name it."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
NAME = re.compile("multi.?label", re.IGNORECASE)
MOST_OTHERS = 3
NOT_COUNTED = ("sfda/problems/multilabel", "sfda/demo", "sfda/testing")
"""Itself, data and tests."""


def test_multilabel_is_named_by_few_files_outside_of_its_folder():
    files = [path for room in ("sfda", "tasks", "flows") for path in (ROOT / room).rglob("*")]
    texts = [path for path in files if path.suffix in {".py", ".yaml", ".json", ".toml", ".html"}]
    naming = {
        path.relative_to(ROOT).as_posix()
        for path in texts
        if NAME.search(path.read_text(encoding="utf-8"))
    }
    assert "sfda/problems/multilabel/__init__.py" in naming
    others = sorted(name for name in naming if not name.startswith(NOT_COUNTED))
    assert len(others) <= MOST_OTHERS, "\n".join(others)
