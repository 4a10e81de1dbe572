"""The table that `sfda methods` prints: what there is, and for what."""

from __future__ import annotations

import inspect
import re
from typing import Any

from sfda import plugins


def describe_methods() -> list[dict[str, Any]]:
    """Every method with its problems, its setting, its paper and one sentence."""
    rows = []
    for name in plugins.names("methods"):
        method = plugins.load("methods", name)
        text = (inspect.getmodule(method).__doc__ or "").strip()
        paper = re.search(r"arXiv:(\d{4}\.\d{4,5})", text)
        rows.append(
            {
                "name": name,
                "problems": sorted(method.problems),
                "setting": method.setting,
                "paper": f"arXiv:{paper[1]}" if paper else "",
                "says": text.partition("\n")[0],
            }
        )
    return rows


def methods_text(rows: list[dict[str, Any]]) -> str:
    """Two lines a method: name, paper, setting and problems in columns; below them its sentence.

    >>> row = {"name": "bn", "paper": "arXiv:1603.04779", "setting": "any", "problems": ["pose"]}
    >>> print(methods_text([row | {"says": "Statistics of the target."}]))
    bn  arXiv:1603.04779  any  pose
        Statistics of the target.
    """
    table = [(r["name"], r["paper"], r["setting"], ", ".join(r["problems"])) for r in rows]
    widths = [max(map(len, column), default=0) for column in zip(*table, strict=True)]
    lines = []
    for row, cells in zip(rows, table, strict=True):
        line = "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
        lines += [line.rstrip(), f"{'':<{widths[0]}}  {row['says']}"]
    return "\n".join(lines)
