"""Folders of reports: one a run, with a name that people read, and whole files or none."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from sfda.state_folder import MAKE_ROOM, disk_errors, home

REPORT_FILE = "report.html"
LONGEST_PART = 40  # letters of a target's or method's name
RUN_SAFE = f"{MAKE_ROOM} or point SFDA_HOME to another disk; the run itself is not lost"


def new_report_folder(target: str, what: str, now: datetime) -> Path:
    """A new folder `reports/<target>-<what>-<date>` below the home, this run's alone: of several at
    the same minute the later ones end in -2, -3. Raises BadInput where it cannot be made.
    """
    parent = home() / "reports"
    name = f"{readable(target)}-{readable(what)}-{now:%Y-%m-%d-%H%M}"
    with disk_errors(str(parent / name), RUN_SAFE):
        parent.mkdir(parents=True, exist_ok=True)
        number = 1
        while True:
            folder = parent / (name if number == 1 else f"{name}-{number}")
            try:
                folder.mkdir()
            except FileExistsError:
                number += 1
            else:
                return folder


def readable(name: str) -> str:
    """A name as part of a folder's name: letters, digits, dots and dashes.

    >>> readable("digits/usps: <a>"), readable("../..")
    ('digits-usps-a', 'run')
    """
    return re.sub(r"[^\w.]+", "-", name).strip("-._")[:LONGEST_PART].strip("-._") or "run"


def write_into(folder: Path, files: Mapping[str, bytes]) -> None:
    """Files into a new folder. Where one cannot be written none is left, nor the folder itself.

    Raises BadInput for a full or read-only disk.
    """
    try:
        with disk_errors(str(folder), RUN_SAFE):
            for name, content in files.items():
                part = folder / f".{name}"
                part.write_bytes(content)
                os.replace(part, folder / name)
    except BaseException:
        for name in files:
            for file in (folder / name, folder / f".{name}"):
                with suppress(OSError):
                    file.unlink(missing_ok=True)
        with suppress(OSError):
            folder.rmdir()
        raise
