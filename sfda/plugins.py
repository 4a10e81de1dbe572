"""A folder is a registry of the files that lie in it and of the class that each defines.

Other distributions add classes by entry points. They cannot take a name that is ours, and one that
cannot be used is named in the log, once, and left out: everything else works on.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import logging
import os
import pkgutil
import sys
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from sfda.errors import BadInput

TRUST_CODE = "SFDA_TRUST_CODE"  # names of packages, by commas; jobs have it in their environment
OPEN_FOLDERS = ("methods", "validators", "queries")

log = logging.getLogger("sfda")


def names(folder: str) -> list[str]:
    """Names of what `sfda.<folder>` holds and of what other distributions add to it, sorted.

    >>> "entropy" in names("validators")
    True
    """
    return sorted(_own(folder) | set(_foreign(folder, tuple(sys.path))))


def foreign_files() -> list[Path]:
    """Source files of what other distributions add to the open folders, in order."""
    modules = [m for folder in OPEN_FOLDERS for _, m in _foreign(folder, tuple(sys.path)).values()]
    files = [getattr(sys.modules.get(module), "__file__", None) for module in modules]
    return [Path(file) for file in dict.fromkeys(files) if file]


def load(folder: str, name: str) -> Any:
    """The one public class that the file `sfda/<folder>/<name>.py` exports as `EXPORT`.

    Raises BadInput for a name that is not there, with the nearest one that is.
    """
    if name in _own(folder):
        kind = importlib.import_module(f"sfda.{folder}.{name}").EXPORT
        if not isinstance(kind, type):
            raise TypeError(f"sfda.{folder}.{name} exports {kind!r}, not a class")
        return kind
    foreign = _foreign(folder, tuple(sys.path))
    if name in foreign:
        return foreign[name][0]
    known = names(folder)
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    raise BadInput(f"no '{name}' in sfda.{folder}; there are {', '.join(known)}{hint}")


def trusted_packages() -> set[str]:
    """Packages whose code stored models may name: what `--trust-code` and SFDA_TRUST_CODE say.

    Raises BadInput for a part of Python itself: with those a model could do anything.
    """
    packages = set(os.environ.get(TRUST_CODE, "").replace(",", " ").split())
    if of_python := sorted(packages & {*sys.stdlib_module_names, "builtins"}):
        raise BadInput(
            f"--trust-code {of_python[0]}: that is part of Python, and a model that names it "
            "can run any command; name the package of whoever made the model"
        )
    return packages


def _own(folder: str) -> set[str]:
    package = importlib.import_module(f"sfda.{folder}")
    return {m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_")}


@lru_cache
def _foreign(folder: str, path: tuple[str, ...]) -> dict[str, tuple[type, str]]:
    """Class and module of what other distributions add, by name; what cannot be used is logged.

    `path` is where they are looked for: with another one it is done again.
    """
    own, usable = _own(folder), dict[str, tuple[type, str]]()
    for entry in sorted(entry_points(group=f"sfda.{folder}"), key=_order):
        kind: Any = None
        if entry.name in own:
            fault = "is a name of this package's own: its own one is used"
        elif entry.name in usable:
            fault = "is named so by two distributions: the first one is used"
        else:
            kind, fault = _loaded(entry)
        if fault:
            log.warning("sfda.%s: '%s' of %s %s", folder, entry.name, _distribution(entry), fault)
        else:
            usable[entry.name] = kind, entry.module
    return usable


def _loaded(entry: EntryPoint) -> tuple[Any, str]:
    """The class of an entry point, and what is wrong with it, if anything."""
    try:
        kind = entry.load()
    except (Exception, SystemExit) as error:  # somebody else's code: it may raise anything
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        return None, f"cannot be imported and is left out ({reason[:200]})"
    if not isinstance(kind, type) or not hasattr(kind, "problems"):
        return None, "is no class with `problems` and is left out"
    return kind, ""


def _distribution(entry: EntryPoint) -> str:
    return str(entry.dist.name) if entry.dist else "an unknown distribution"


def _order(entry: EntryPoint) -> tuple[str, str, str]:
    return entry.name, _distribution(entry), entry.value
