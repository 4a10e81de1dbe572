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
from collections.abc import Mapping, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic_settings import DotEnvSettingsSource

PROFILES_PATH = "_get_profiles_path"  # Prefect's function
READ_FILES = "_read_env_files"  # pydantic's
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


def _close(module: ModuleType) -> None:
    """Let the classes that read such files read none; a change in Prefect's names shows at once."""
    for reader, method in (
        (module.FilteredDotEnvSettingsSource, READ_FILES),
        (module.PrefectTomlConfigSettingsSource, "_read_files"),
        (module.PyprojectTomlConfigSettingsSource, "_read_files"),
    ):
        if not callable(getattr(reader, method, None)):
            raise ImportError(f"this release of Prefect reads its files otherwise: {method}")
        setattr(reader, method, _nothing)
    _read_none_of_folder(module.DotEnvSettingsSource)
    if not callable(getattr(module, PROFILES_PATH, None)):
        raise ImportError("this release of Prefect reads its profiles otherwise")
    usual, home = module.DEFAULT_PROFILES_PATH, module.DEFAULT_PREFECT_HOME

    def profiles_path() -> Path:
        if stated := os.environ.get("PREFECT_PROFILES_PATH"):
            return Path(stated)
        if stated := os.environ.get("PREFECT_HOME"):
            return Path(stated, "profiles.toml")
        own = Path(home, "profiles.toml")
        return own if own.exists() else Path(usual)

    setattr(module, PROFILES_PATH, profiles_path)


def _read_none_of_folder(reader: type[DotEnvSettingsSource]) -> None:
    """Let pydantic's own reader of such files open none whose path is relative.

    It reads the file for each class of settings before that class may say that it wants another
    reader, and a few hundred bytes of names in names unpack to gigabytes.
    """
    read = reader._read_env_files

    def of_elsewhere(self: DotEnvSettingsSource) -> Mapping[str, str | None]:
        stated = self.env_file or ()
        files = [stated] if isinstance(stated, str | os.PathLike) else stated
        return read(self) if all(map(os.path.isabs, files)) else {}

    setattr(reader, READ_FILES, of_elsewhere)


def _nothing(*_: object, **__: object) -> dict[str, Any]:
    return {}
