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
from importlib import metadata
from importlib.metadata import Distribution, EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from sfda.errors import BadInput

TRUST_CODE = "SFDA_TRUST_CODE"  # names of packages, by commas; jobs have it in their environment
CODE_FILES = "SFDA_CODE_FILES"  # FILE.py:Class, by commas, with whole paths: their code is run
FILE_MODULE = "sfda_code_file_"  # begins the name of the module that such a file becomes
OPEN_FOLDERS = ("methods", "validators", "queries", "networks")
SERVES = ("problems", "answers")  # by which of them a class says what it is for
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


def load(folder: str, name: str) -> Any:
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


def trusted_packages() -> set[str]:
    """Packages whose code stored models may name: what `--trust-code` and SFDA_TRUST_CODE say.

    Raises BadInput for a part of Python itself: with those a model could do anything.
    """
    packages = set(os.environ.get(TRUST_CODE, "").replace(",", " ").split())
    if refused := sorted(word for word in packages if "@" not in word and is_never_trusted(word)):
        raise BadInput(
            f"--trust-code {refused[0]}: that is part of Python or of what runs here anyway, "
            "and a model that names it can run any command; name the package of whoever made "
            "the model"
        )
    return packages


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
        if entry.name in own:
            fault = "is a name of this package's own: its own one is used"
        elif entry.name in usable:
            fault = "is named so by two distributions: the first one is used"
        else:
            kind, fault = _loaded(entry)
        if fault:
            log.warning("sfda.%s: '%s' of %s %s", folder, entry.name, _distribution(entry), fault)
        else:
            usable[entry.name] = Foreign(kind, entry.module, entry.dist)
    for file in files:
        kind, fault = _read_class(folder, file)
        if not fault and file.name in {*own, *usable}:
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
    except (Exception, SystemExit) as error:  # somebody else's code: it may raise anything
        return None, f"cannot be imported and is left out ({_reason(error)})"
    if not isinstance(kind, type) or not any(hasattr(kind, fact) for fact in SERVES):
        return None, f"is no class with `{'` or `'.join(SERVES)}` and is left out"
    return kind, ""


def _read_class(folder: str, file: CodeFile) -> tuple[Any, str]:
    """The class that a file of the user's own names, and what is wrong with it, if anything."""
    try:
        kind = getattr(_module_of(file.path, file.content), file.name, None)
    except (Exception, SystemExit) as error:
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
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


def _distribution(entry: EntryPoint) -> str:
    return str(entry.dist.name) if entry.dist else "an unknown distribution"


def _order(entry: EntryPoint) -> tuple[str, str, str]:
    return entry.name, _distribution(entry), entry.value


# where this package was not installed, what it is made of is found from these
MAIN_LIBRARIES = (
    "albumentations",
    "mlflow",
    "mmdet",
    "prefect",
    "scikit-learn",
    "timm",
    "torchvision",
)
ALWAYS = frozenset({"sfda", "tasks", "flows", "builtins", "__main__", "test", "pip", "setuptools"})
REQUIREMENT = re.compile(r"\s*([\w.-]+)\s*(?:\[([^\]]*)\])?")
EXTRA = re.compile(r"extra\s*==\s*['\"]([^'\"]+)['\"]")


def is_never_trusted(package: str) -> bool:
    """Whether a package, or the one that a dotted name begins with, can never be trusted.

    >>> is_never_trusted("psutil"), is_never_trusted("os.path"), is_never_trusted("my_lab")
    (True, True, False)
    """
    top = package.partition(".")[0]
    return top in sys.stdlib_module_names or top in ALWAYS or top in _made_of(tuple(sys.path))


@lru_cache
def _made_of(path: tuple[str, ...]) -> frozenset[str]:
    """Importable packages of every distribution that this one requires, extras included, and of
    what those require; `path` is where distributions are looked for."""
    waiting = [("sfda", frozenset({"*"})), *((name, frozenset[str]()) for name in MAIN_LIBRARIES)]
    known: dict[str, frozenset[str]] = {}
    while waiting:
        name, extras = waiting.pop()
        name = _plain(name)
        if name in known and extras <= known[name]:
            continue
        known[name] = extras = extras | known.get(name, frozenset())
        waiting += _required(name, extras)
    tops = metadata.packages_distributions().items()
    return frozenset(top for top, names in tops if any(_plain(name) in known for name in names))


def _required(name: str, extras: frozenset[str]) -> list[tuple[str, frozenset[str]]]:
    """Name and extras of what a distribution requires; of extras `*` is each of its own."""
    try:
        texts = metadata.requires(name) or []
    except metadata.PackageNotFoundError:
        return []
    required = []
    for text in texts:
        asked = set(EXTRA.findall(text.partition(";")[2]))
        if (match := REQUIREMENT.match(text)) and (not asked or "*" in extras or asked & extras):
            own = (match[2] or "").split(",")
            required.append((match[1], frozenset(word.strip() for word in own if word.strip())))
    return required


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
