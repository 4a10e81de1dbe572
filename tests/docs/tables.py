"""The tables of methods, validators, queries and networks in README and docs, out of the classes.

`python -m tests.docs.tables --write` writes them anew (`make docs` does so first); without
`--write` it says which are not as the classes are. What other distributions add is left out.
"""

from __future__ import annotations

import argparse
import inspect
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from sfda import plugins
from sfda.problem_names import PROBLEM_NAMES

ROOT = Path(__file__).parents[2]
CITED = re.compile(r"\(([A-Z][^()]* (?:19|20)\d\d)[^()]*\)")  # where a paper has no arXiv number


class Table(NamedTuple):
    """A table below a heading of a page: a row for each class of an open folder."""

    page: str
    heading: str
    folder: str
    columns: Mapping[str, Callable[[Any], str]]  # besides the name


def problems_of(kind: Any) -> str:
    """Those that it serves, in order."""
    every = set(PROBLEM_NAMES) <= kind.problems
    return "every" if every else ", ".join(sorted(kind.problems))


def idea_of(kind: Any) -> str:
    """What the class says of itself, in one clause."""
    return str(kind.idea or first_sentence(kind)).replace("|", r"\|")


def first_sentence(kind: Any) -> str:
    """Of its docstring."""
    return (inspect.getdoc(kind) or "").partition("\n\n")[0].replace("\n", " ").rstrip(".")


def paper_of(kind: Any) -> str:
    """The first that the file's docstring names: its arXiv number, or else authors and place."""
    text = " ".join((inspect.getmodule(kind).__doc__ or "").split())
    number = re.search(r"arXiv:\d{4}\.\d{4,5}", text)
    cited = number or CITED.search(text)
    return cited[0].strip("()") if cited else ""


def answers_of(kind: Any) -> str:
    """What its networks say of an image."""
    return ", ".join(sorted(kind.answers))


METHOD = {"problems": problems_of, "idea": idea_of}
TABLES = (
    Table("README.md", "Methods", "methods", METHOD),
    Table(
        "docs/methods/index.md",
        "Methods",
        "methods",
        {
            "problems": problems_of,
            "setting": lambda kind: str(kind.setting),
            "idea": idea_of,
            "paper": paper_of,
        },
    ),
    Table("docs/methods/index.md", "Validators", "validators", METHOD | {"paper": paper_of}),
    Table("docs/few-labels.md", "Ask", "queries", {"idea": idea_of, "paper": paper_of}),
    Table("docs/networks.md", "Families", "networks", {"say": answers_of, "idea": idea_of}),
)
FIRST = {"methods": "method", "validators": "validator", "queries": "query", "networks": "family"}


def own_names(folder: str) -> list[str]:
    """Names of the classes that lie in a folder of ours."""
    kinds = {name: plugins.load(folder, name) for name in plugins.names(folder)}
    return [name for name, kind in kinds.items() if kind.__module__.startswith("sfda.")]


def row(table: Table, name: str) -> str:
    """A row of the table, by its class."""
    kind = plugins.load(table.folder, name)
    cells = [f"`{name}`", *(cell(kind) for cell in table.columns.values())]
    return "".join(f"| {cell} " if cell else "| " for cell in cells) + "|"


def lines_of(table: Table) -> list[str]:
    """The whole table."""
    head = [FIRST[table.folder], *table.columns]
    return [
        f"| {' | '.join(head)} |",
        "|" + "---|" * len(head),
        *(row(table, name) for name in own_names(table.folder)),
    ]


def shown(table: Table, text: str) -> tuple[int, int]:
    """Where in a page's text the table is. Raises ValueError where there is none."""
    start = text.index("\n| ", text.index(f"\n## {table.heading}\n")) + 1
    end = re.compile(r"^(?!\|)", re.M).search(text, start)
    return start, end.start() if end else len(text)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.docs.tables", description=__doc__)
    parser.add_argument("--write", action="store_true", help="write them, and do not only compare")
    write = parser.parse_args().write
    for table in TABLES:
        page = ROOT / table.page
        text = page.read_text(encoding="utf-8")
        start, end = shown(table, text)
        made = "\n".join(lines_of(table)) + "\n"
        if text[start:end] != made:
            print(f"{table.page}, {table.heading}: {'written anew' if write else 'not as it is'}")
            if write:
                page.write_text(text[:start] + made + text[end:], encoding="utf-8")


if __name__ == "__main__":
    main()
