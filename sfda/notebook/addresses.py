"""Where models lie that are named by an address and not by a folder, such as `models:/NAME@alias`.

The library knows no registry. Whoever does offers a way to it: `import tasks.tracking` does so for
MLflow.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sfda.errors import BadInput, no_model

Resolver = Callable[[str], Path]
_offered: dict[str, Resolver] = {}  # by how their addresses begin


def offer_resolver(begins: str, resolve: Resolver) -> None:
    """Let addresses that begin so be resolved: to the folder of a bundle, or BadInput."""
    _offered[begins] = resolve


def folder_of(address: str | Path) -> Path:
    """The folder of the bundle at an address, or at a path. Raises BadInput."""
    text = str(address)
    for begins, resolve in _offered.items():
        if text.startswith(begins):
            return resolve(text)
    if ":/" in text:
        raise BadInput(
            f"{text} is an address in a registry, and none is known here: `import tasks.tracking` "
            "first, or name the folder of a bundle"
        )
    if not (Path(text) / "spec.json").is_file():
        raise no_model(text)
    return Path(text).absolute()
