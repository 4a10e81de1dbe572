"""Where this product keeps its state, and below which folder data are found."""

from __future__ import annotations

import os
from pathlib import Path


def state_folder() -> Path:
    """`$SFDA_HOME`, or `.sfda` in the current folder. It may not exist yet."""
    return Path(os.environ.get("SFDA_HOME") or ".sfda").expanduser().absolute()


def data_folder() -> Path:
    """`$SFDA_DATA`, or the current folder."""
    return Path(os.environ.get("SFDA_DATA") or ".").expanduser().absolute()
