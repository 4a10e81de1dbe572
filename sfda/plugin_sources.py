"""The source files behind plug-ins: what the sandbox lets them read, and what results are of.

A plug-in is the top-level package (or the single module) that its entry point names, all of it, and
so are packages that it imports and that are not installed but worked on (editable installs). Of
what its distribution requires the version counts.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import os
import re
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from functools import cache, lru_cache
from importlib.metadata import PackageNotFoundError, version
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from sfda.plugins import FILE_MODULE, foreign

LIBRARIES = ("torch", "torchvision", "timm", "albumentations", "scikit-learn")  # results are theirs
OWN_PACKAGES = frozenset({"sfda", "tasks", "flows"})


class Sources(NamedTuple):
    """Packages by name, each with its folders or its one file, and names of installed packages."""

    packages: dict[str, tuple[Path, ...]]
    installed: frozenset[str]

    def files(self) -> Iterator[tuple[str, Path]]:
        """Every source file with a name that does not depend on where it lies, in order."""
        for name, paths in sorted(self.packages.items()):
            for path in paths:
                for file in python_files(path):
                    yield f"{name}/{file.relative_to(path) if file != path else ''}", file


def plugin_sources() -> Sources:
    """Those of all that others add to the open folders."""
    return sources_of(entry.module for entry in foreign())


def plugin_paths() -> tuple[list[Path], list[Path]]:
    """What plug-ins need to read, metadata of their distributions included, and what of it the
    import system looks up by its name.
    """
    packages = plugin_sources().packages
    facts = [getattr(entry.distribution, "_path", None) for entry in foreign()]
    read = [*chain(*packages.values()), *(Path(path) for path in facts if path)]
    files = [paths for name, paths in packages.items() if name.startswith(FILE_MODULE)]
    by_path = set(chain(*files))
    looked_up = [path for path in read if path not in by_path]
    return list(dict.fromkeys(read)), list(dict.fromkeys(looked_up))


def linked(paths: Iterable[Path], within: Path) -> list[Path]:
    """Folders, made in `within`, of links to packages and modules: there they can be looked up by
    name, and what lies beside them cannot be listed. Of one name there may be several.
    """
    folders = list[Path]()
    for path in dict.fromkeys(paths):
        free = next((one for one in folders if not os.path.lexists(one / path.name)), None)
        if free is None:
            folders.append(free := within / f"modules-{len(folders)}")
            free.mkdir(mode=0o700)
        (free / path.name).symlink_to(path.absolute())
    return folders


def plugin_digest() -> str:
    """SHA-256 over the sources of all plug-ins and the versions of what they import."""
    sources, digest = plugin_sources(), hashlib.sha256()
    for name, file in sources.files():
        digest.update(name.encode() + b"\0" + file.read_bytes() + b"\0")
    distributions = set(sources.installed)  # most are called as what they install
    for entry in foreign():
        if entry.distribution:
            distributions.add(entry.distribution.name)
            distributions.update(map(_required, entry.distribution.requires or ()))
    for name in sorted(distributions):
        digest.update(f"{name}=={_version(name)}\0".encode())
    return digest.hexdigest()


@cache
def library_versions() -> dict[str, str]:
    """Versions of the libraries that results depend on; '' for one that is not installed.

    >>> sorted(library_versions())
    ['albumentations', 'scikit-learn', 'timm', 'torch', 'torchvision']
    """
    return {name: _version(name) for name in LIBRARIES}


def sources_of(modules: Iterable[str]) -> Sources:
    """The packages that modules lie in, whole, and what these import besides Python and us."""
    packages, installed = dict[str, tuple[Path, ...]](), set[str]()
    own = {_root(module) for module in modules} - OWN_PACKAGES
    waiting = sorted(own)
    while waiting:
        name = waiting.pop()
        if name in packages or name in installed or name in OWN_PACKAGES or name in _python():
            continue
        paths = _locations(name)
        if name not in own and (_is_namespace(name) or all(map(_is_installed, paths))):
            installed.add(name)  # or a mere folder of that name, which may hold anything
            continue
        packages[name] = paths
        for path in paths:
            for file in python_files(path):
                waiting += _imported(file, file.stat().st_mtime_ns)
    return Sources(packages, frozenset(installed))


def python_files(path: Path) -> list[Path]:
    """The source files below a folder, in order; a file is its own one."""
    return sorted(path.rglob("*.py")) if path.is_dir() else [path]


def _root(module: str) -> str:
    return module.partition(".")[0]


def _locations(name: str) -> tuple[Path, ...]:
    """Where a top-level package lies; of a namespace that is several folders, or none."""
    if file := _file_of_loaded(name):
        return (file,)
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):  # it is not there, or no module at all
        return ()
    if spec is None:
        return ()
    if spec.submodule_search_locations is not None:
        folders = (Path(path) for path in spec.submodule_search_locations)
        return tuple(folder for folder in folders if folder.is_dir())
    return (Path(spec.origin),) if spec.has_location and spec.origin else ()


def _is_namespace(name: str) -> bool:
    """Whether a name is of folders without a file of their own that says so."""
    module = sys.modules.get(name)
    if module is not None:
        return getattr(module, "__file__", None) is None
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return False
    return spec is not None and spec.origin is None


def _file_of_loaded(name: str) -> Path | None:
    """The file of a module that was read from a file of the user's own, and has no spec."""
    module = sys.modules.get(name)
    if module is None or module.__spec__ is not None or not getattr(module, "__file__", None):
        return None
    return Path(str(module.__file__))


@lru_cache(maxsize=4096)
def _imported(file: Path, changed: int) -> tuple[str, ...]:
    """Top-level names that a file imports, wherever; none of one that is not Python."""
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):
        return ()
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {_root(alias.name) for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(_root(node.module))
    return tuple(sorted(names))


@lru_cache
def _python() -> frozenset[str]:
    return frozenset({*sys.stdlib_module_names, "builtins", "__main__"})


@lru_cache
def _site_folders() -> tuple[Path, ...]:
    kinds = sysconfig.get_paths()
    return tuple({Path(kinds[kind]) for kind in ("purelib", "platlib", "stdlib")})


def _is_installed(path: Path) -> bool:
    return any(path.is_relative_to(folder) for folder in _site_folders())


def _required(requirement: str) -> str:
    """The distribution that a requirement such as `numpy>=1.26; extra == "x"` names."""
    match = re.match(r"[\w.-]+", requirement)
    return match[0] if match else ""


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except (PackageNotFoundError, ValueError):
        return ""
