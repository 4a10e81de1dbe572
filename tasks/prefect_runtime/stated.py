"""Whether the user has a Prefect server of their own, read as Prefect would but without it."""

from __future__ import annotations

import importlib.util
import os
import re
import stat
import tomllib
from pathlib import Path
from typing import Any

from tasks.prefect_runtime.folder_settings import are_ignored

LONGEST_SETTINGS = 1 << 20  # bytes of a file of settings that are read
LONGEST_TOML, MOST_DOTS = 1 << 16, 100  # characters of a TOML file; dots of a line of it
# Strings and comments, each up to the end where nothing closes it: one pass over any text
QUOTED = re.compile(
    r""""{3}(?:\\.|[^\\])*?(?:"{3,5}|\\?\Z)|'{3}.*?(?:'{3,5}|\Z)"""
    r"""|"(?:\\[^\n]|[^"\\\n])*"?|'[^'\n]*'?|#[^\n]*""",
    re.S,
)
URL, PROFILES = "PREFECT_API_URL", "PREFECT_PROFILES_PATH"


def states_address() -> bool:
    """Whether the environment, or a file that Prefect reads here, names a server of the user's.

    Files that state other settings alone do not: Prefect would start a server of its own. Those of
    the current folder count where this process lets Prefect read them.
    """
    if os.environ.get(URL):
        return True
    stated_paths = [os.environ.get(PROFILES)]
    if not are_ignored():
        if address_in_folder():
            return True
        stated_paths += [_dotenv(PROFILES)]
        stated_paths += [table.get("profiles_path") for table in _projects().values()]
    return bool(_profile(next(filter(None, stated_paths), None)).get(URL))


def address_in_folder() -> str | None:
    """The name of a file of the current folder that states the address of a server."""
    if _dotenv(URL):
        return ".env"
    for name, table in _projects().items():
        if isinstance(table.get("api"), dict) and table["api"].get("url"):
            return name
    return None


def _projects() -> dict[str, dict[str, Any]]:
    return {
        "prefect.toml": _table("prefect.toml"),
        "pyproject.toml": _table("pyproject.toml", "tool", "prefect"),
    }


def _profile(path: str | None) -> dict[str, Any]:
    """The settings of the active profile; none where it is Prefect's usual one."""
    own = Path(path) if path else _home() / "profiles.toml"
    if not path and "PREFECT_HOME" not in os.environ and not own.is_file():
        own = packages() / "prefect" / "settings" / "profiles.toml"  # those it brings along
    profiles = _table(str(own), "profiles")
    active = os.environ.get("PREFECT_PROFILE") or _table(str(own)).get("active")
    chosen = profiles.get(active) if isinstance(active, str) else None
    return chosen if isinstance(chosen, dict) else {}


def _home() -> Path:
    return Path(os.environ.get("PREFECT_HOME") or Path.home() / ".prefect").expanduser()


def _dotenv(name: str) -> str | None:
    """What `.env` sets `name` to, with quotes and comments left on."""
    text = _text(Path(".env"))
    lines = re.findall(
        rf"^[ \t]*(?:export\s+)?{name}\s*=[ \t]*['\"]?([^'\"#\s]+)", text, re.M | re.I
    )
    return lines[-1] if lines else None


def _table(file: str, *keys: str) -> dict[str, Any]:
    """A table of a TOML file; empty where it is not there, cannot be read or would take long."""
    text = _text(Path(file))
    if len(text) > LONGEST_TOML or _has_long_name(text):
        return {}
    try:
        table: Any = tomllib.loads(text)
    except (ValueError, RecursionError):  # lists in lists without end
        return {}
    for key in keys:
        table = table.get(key, {}) if isinstance(table, dict) else {}
    return table if isinstance(table, dict) else {}


def _has_long_name(text: str) -> bool:
    """Whether a line has many dots outside of quotes: parsing a name takes its parts squared."""
    return any(line.count(".") > MOST_DOTS for line in QUOTED.sub("", text).split("\n"))


def _text(file: Path) -> str:
    """What a file of settings says; nothing where it is a pipe, longer than settings are, or cannot
    be read."""
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as opened:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                return ""
            return opened.read(LONGEST_SETTINGS).decode("utf-8", "replace")
    except OSError:
        return ""


def packages() -> Path:
    """The folder that Prefect lies in, without importing it."""
    spec = importlib.util.find_spec("prefect")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent.parent
