"""Artifacts on a run's page: text that may name what others made, so nothing in it is loaded."""

from __future__ import annotations

import re
from typing import Any

from prefect import artifacts

OPENED = re.compile(r"<(?=[A-Za-z/!?])|(?<=\])(?=[(\[:])")  # of a tag; between text and address


def tame(text: str) -> str:
    r"""Markdown without tags, pictures and links. Our own texts have none; names may hold some.

    >>> tame("| ![x](//host/a) <img src=//host/b> | 1 < 2 |")
    '| ![x]\\(//host/a) &lt;img src=//host/b> | 1 < 2 |'
    """
    return OPENED.sub(lambda mark: "&lt;" if mark[0] else "\\", text)


def create_markdown_artifact(markdown: str, *, key: str) -> None:
    """A text on the page of this run."""
    artifacts.create_markdown_artifact(tame(markdown), key=key)


def create_table_artifact(table: list[dict[str, Any]], *, key: str, description: str) -> None:
    """A table on the page of this run, which renders its names and its text as Markdown."""
    tamed = [
        {tame(name): tame(cell) if isinstance(cell, str) else cell for name, cell in row.items()}
        for row in table
    ]
    artifacts.create_table_artifact(tamed, key=key, description=tame(description))


def create_image_artifact(address: str, *, key: str, description: str) -> None:
    """A picture on the page of this run."""
    artifacts.create_image_artifact(address, key=key, description=tame(description))


def create_link_artifact(link: str, *, link_text: str, key: str, description: str) -> None:
    """A link to what we made on the page of this run."""
    artifacts.create_link_artifact(
        link,
        link_text=re.sub(r"([\[\]<>`\\])", r"\\\1", link_text),
        key=key,
        description=tame(description),
    )
