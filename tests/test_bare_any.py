"""Functions say what they take and return: a bare `Any` is the exception, and is counted."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
MOST_RETURNS, MOST_TAKES = 20, 22


def functions() -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """All functions of our packages and where they stand."""
    for room in ("sfda", "tasks", "flows"):
        for path in sorted((ROOT / room).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    yield f"{path.relative_to(ROOT)}:{node.lineno} {node.name}", node


def is_any(annotation: ast.expr | None) -> bool:
    return isinstance(annotation, ast.Name) and annotation.id == "Any"


def takes_any(arguments: ast.arguments) -> bool:
    every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    return any(is_any(one.annotation) for one in (*every, arguments.vararg, arguments.kwarg) if one)


def test_few_functions_return_or_take_anything():
    every = list(functions())
    returns = [where for where, node in every if is_any(node.returns)]
    takes = [where for where, node in every if takes_any(node.args)]
    assert returns, "nothing was counted"
    assert len(returns) <= MOST_RETURNS, "\n".join(returns)
    assert len(takes) <= MOST_TAKES, "\n".join(takes)
