"""A folder is a registry of the files that lie in it and of the class that each defines.

Other distributions add classes by entry points, and a person adds those of single files
(`--method ./my_method.py:Mine`). Neither can take a name that is ours, and what cannot be used is
named in the log, once, and left out: everything else works on.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import logging
import os
import pkgutil
import re
import sys
from functools import lru_cache
from importlib.metadata import Distribution, EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from sfda.documents import cut_off
from sfda.errors import BadInput
from sfda.problem_names import PROBLEM_NAMES

CODE_FILES = "SFDA_CODE_FILES"  # FILE.py:Class, by commas, with whole paths: their code is run
FILE_MODULE = "sfda_code_file_"  # begins the name of the module that such a file becomes
OPEN_FOLDERS = ("methods", "validators", "queries", "networks")
SERVES = ("problems", "answers")  # by which of them a class says what it is for
ENTRY_NAME = re.compile(r"[a-z][a-z0-9_]*")
RESERVED = frozenset({"auto", "last", "source", "supervised", *PROBLEM_NAMES})
DEEPER = {"networks": "networks.families"}  # where the files lie, if not in the folder itself

log = logging.getLogger("sfda")


class Foreign(NamedTuple):
    """A class that is not ours, the module that names it, and the distribution of that."""

    kind: type
    module: str
    distribution: Distribution | None = None


class CodeFile(NamedTuple):
    """A class in a file of a person's own, as `FILE.py:Class` names it; raw `content` as read."""

    path: Path
    name: str
    content: bytes


def names(folder: str) -> list[str]:
    """Names of what `sfda.<folder>` holds and of what others add to it, sorted.

    >>> "entropy" in names("validators")
    True
    """
    return sorted(_own(folder) | set(_others(folder)))


def foreign() -> list[Foreign]:
    """What others add to the open folders, in order; a module may be named several times."""
    return [entry for folder in OPEN_FOLDERS for entry in _others(folder).values()]


def load(folder: str, name: str) -> type[Any]:
    """The one public class that the file `sfda/<folder>/<name>.py` exports as `EXPORT`.

    Raises BadInput for a name that is not there, with the nearest one that is, and for a class of
    a file of the user's own that cannot be used.
    """
    if name in _own(folder):
        kind = importlib.import_module(f"{_package(folder)}.{name}").EXPORT
        if not isinstance(kind, type):
            raise TypeError(f"sfda.{folder}.{name} exports {kind!r}, not a class")
        return kind
    others = _others(folder)
    if name in others:
        return others[name].kind
    for file in code_files():
        if file.name == name and (fault := _read_class(folder, file)[1]):
            raise BadInput(f"{file.path}:{name} {fault}")
    known = names(folder)
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    raise BadInput(f"no '{name}' in sfda.{folder}; there are {', '.join(known)}{hint}")


def code_files() -> tuple[CodeFile, ...]:
    """What SFDA_CODE_FILES names, read. Raises BadInput for what is no file, or names no class."""
    texts = [text.strip() for text in os.environ.get(CODE_FILES, "").split(",") if text.strip()]
    files = []
    for text in dict.fromkeys(texts):
        path, _, name = text.rpartition(":")
        file = Path(path)
        if file.suffix != ".py" or not name.isidentifier() or not file.is_absolute():
            raise BadInput(f"{text}: write FILE.py:Class; in {CODE_FILES} with its whole path")
        try:
            files.append(CodeFile(file, name, file.read_bytes()))
        except OSError as error:
            raise BadInput(f"{text}: the file cannot be read ({error.strerror})") from None
    return tuple(files)


def _package(folder: str) -> str:
    return f"sfda.{DEEPER.get(folder, folder)}"


def _own(folder: str) -> set[str]:
    package = importlib.import_module(_package(folder))
    return {m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_")}


def _others(folder: str) -> dict[str, Foreign]:
    """By name, what other distributions and files of the user's own add."""
    return _foreign(folder, tuple(sys.path), code_files())


@lru_cache
def _foreign(folder: str, path: tuple[str, ...], files: tuple[CodeFile, ...]) -> dict[str, Foreign]:
    """Class and module of what others add, by name; what cannot be used is logged.

    `path` is where distributions are looked for: with another one it is done again.
    """
    own, usable = _own(folder), dict[str, Foreign]()
    for entry in _entries(folder):
        kind: Any = None
        if not ENTRY_NAME.fullmatch(entry.name):
            fault = "is no name: a letter, then letters, digits and '_', all small"
        elif entry.name in own:
            fault = "is a name of this package's own: its own one is used"
        elif entry.name in RESERVED:
            fault = "is a word that says something else here"
        elif entry.name in usable:
            fault = "is named so by two distributions: the first one is used"
        else:
            kind, fault = _loaded(entry)
        if fault:
            named = cut_off(ascii(entry.name)[1:-1])
            log.warning("sfda.%s: '%s' of %s %s", folder, named, _distribution(entry), fault)
        else:
            usable[entry.name] = Foreign(kind, entry.module, entry.dist)
    for file in files:
        kind, fault = _read_class(folder, file)
        if not fault and file.name.lower() in {*own, *usable, *RESERVED}:
            fault = "is named as another one is, which is used: rename the class"
        if fault:
            log.debug("sfda.%s: %s:%s %s", folder, file.path, file.name, fault)
        else:
            # its own file, also where that takes the class from elsewhere
            usable[file.name] = Foreign(kind, _module_of(file.path, file.content).__name__)
    return usable


def _entries(folder: str) -> list[EntryPoint]:
    """In order; of a distribution whose metadata lie in two places, as in some editable installs,
    each once.
    """
    entries = sorted(entry_points(group=f"sfda.{folder}"), key=_order)
    return list({_order(entry): entry for entry in reversed(entries)}.values())[::-1]


def _loaded(entry: EntryPoint) -> tuple[Any, str]:
    """The class of an entry point, and what is wrong with it, if anything."""
    try:
        kind = entry.load()
        served = [getattr(kind, fact) for fact in SERVES if hasattr(kind, fact)]
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # somebody else's code: it may raise anything
        return None, f"cannot be imported and is left out ({_reason(error)})"
    if not isinstance(kind, type) or not served:
        return None, f"is no class with `{'` or `'.join(SERVES)}` and is left out"
    if not all(isinstance(one, frozenset | set | tuple | list) for one in served):
        return None, f"is for no set of problems (`{'` or `'.join(SERVES)}`) and is left out"
    return kind, ""


def _read_class(folder: str, file: CodeFile) -> tuple[Any, str]:
    """The class that a file of the user's own names, and what is wrong with it, if anything."""
    try:
        kind = getattr(_module_of(file.path, file.content), file.name, None)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        return None, f"cannot be imported ({_reason(error)})"
    base = f"{_package(folder)}._base"
    if not isinstance(kind, type) or base not in {c.__module__ for c in kind.__mro__[1:]}:
        return None, f"is no class that derives from one of {base}"
    return kind, ""


@lru_cache
def _module_of(path: Path, content: bytes) -> ModuleType:
    """A file as a module, under a name that no other file has, nor this one when it is changed.

    It is not looked for beside other files, so what it imports has to be installed.
    """
    digest = hashlib.sha256(bytes(path) + b"\0" + content).hexdigest()[:16]
    module = ModuleType(f"{FILE_MODULE}{path.stem}_{digest}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # where dataclasses and pydantic look names up
    try:
        exec(compile(content, path, "exec"), module.__dict__)
    except BaseException:
        del sys.modules[module.__name__]
        raise
    return module


def _reason(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception:  # its own text may be what is broken
        text = ""
    return cut_off(" ".join(f"{type(error).__name__}: {text}".split()), 200)


def _distribution(entry: EntryPoint) -> str:
    return str(entry.dist.name) if entry.dist else "an unknown distribution"


def _order(entry: EntryPoint) -> tuple[str, str, str]:
    return entry.name, _distribution(entry), entry.value
