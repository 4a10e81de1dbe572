"""Which problems there are: a problem is a folder, and all layers may ask without importing one."""

from __future__ import annotations

from pathlib import Path

PROBLEM_NAMES = tuple(
    sorted(path.parent.name for path in Path(__file__).parent.glob("problems/*/__init__.py"))
)
