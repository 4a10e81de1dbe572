"""A folder is a registry of the files that lie in it and of the class that each defines."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import pkgutil
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from sfda.errors import BadInput


def names(folder: str) -> list[str]:
    """Names of what `sfda.<folder>` holds and of what other distributions add to it, sorted.

    >>> "entropy" in names("validators")
    True
    """
    package = importlib.import_module(f"sfda.{folder}")
    own = {m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_")}
    return sorted(own | {e.name for e in entry_points(group=f"sfda.{folder}")})


def foreign_files() -> list[Path]:
    """Source files of methods and validators that other distributions add, in order."""
    files = []
    for folder in ("methods", "validators"):
        for entry in sorted(entry_points(group=f"sfda.{folder}"), key=lambda e: e.name):
            spec = importlib.util.find_spec(entry.module)
            if spec and spec.origin:
                files.append(Path(spec.origin))
    return files


def load(folder: str, name: str) -> Any:
    """The one public class that the file `sfda/<folder>/<name>.py` exports as `EXPORT`.

    Raises BadInput for a name that is not there, with the nearest one that is.
    """
    known = names(folder)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        raise BadInput(f"no '{name}' in sfda.{folder}; there are {', '.join(known)}{hint}")
    for entry in entry_points(group=f"sfda.{folder}"):
        if entry.name == name:
            kind = entry.load()
            break
    else:
        kind = importlib.import_module(f"sfda.{folder}.{name}").EXPORT
    if not isinstance(kind, type):
        raise TypeError(f"sfda.{folder}.{name} exports {kind!r}, not a class")
    return kind
