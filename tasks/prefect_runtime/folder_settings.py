"""Prefect's settings files of the current folder, which our processes do not read.

`.env`, `prefect.toml` and `pyproject.toml` may be anybody's, of a folder of data that was unpacked,
and such settings name modules and commands. What holds for the user is the environment and the
profiles below `PREFECT_HOME`.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

SETTINGS_MODULE = "prefect.settings.sources"
_ignored = False


def ignore_folder_settings() -> None:
    """From now on Prefect reads no settings file of the current folder in this process.

    Where Prefect is imported already, what it read stays.
    """
    global _ignored
    if _ignored:
        return
    _ignored = True
    if SETTINGS_MODULE in sys.modules:
        _close(sys.modules[SETTINGS_MODULE])
    else:
        sys.meta_path.insert(0, _Finder())


def are_ignored() -> bool:
    """Whether this process reads none."""
    return _ignored


class _Finder(MetaPathFinder):
    """Closes the module that reads the files as soon as it is imported, before anybody asks it."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != SETTINGS_MODULE:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and isinstance(spec.loader, importlib.machinery.SourceFileLoader):
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


class _Loader(importlib.machinery.SourceFileLoader):
    def exec_module(self, module: ModuleType) -> None:
        super().exec_module(module)
        _close(module)


def _close(module: Any) -> None:
    """Let the classes that read such files read none; a change in Prefect's names shows at once."""
    for reader, method in (
        (module.FilteredDotEnvSettingsSource, "_read_env_files"),
        (module.PrefectTomlConfigSettingsSource, "_read_files"),
        (module.PyprojectTomlConfigSettingsSource, "_read_files"),
    ):
        if not callable(getattr(reader, method, None)):
            raise ImportError(f"this release of Prefect reads its files otherwise: {method}")
        setattr(reader, method, _nothing)
    if not callable(getattr(module, "_get_profiles_path", None)):
        raise ImportError("this release of Prefect reads its profiles otherwise")
    usual, home = module.DEFAULT_PROFILES_PATH, module.DEFAULT_PREFECT_HOME

    def profiles_path() -> Path:
        if stated := os.environ.get("PREFECT_PROFILES_PATH"):
            return Path(stated)
        if stated := os.environ.get("PREFECT_HOME"):
            return Path(stated, "profiles.toml")
        own = Path(home, "profiles.toml")
        return own if own.exists() else Path(usual)

    module._get_profiles_path = profiles_path


def _nothing(*_: object, **__: object) -> dict[str, Any]:
    return {}
