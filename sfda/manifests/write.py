"""A manifest and its row file on disk, never half-written."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def put(files: dict[Path, bytes]) -> None:
    """Write all files under temporary names, then move each into its place, in this order."""
    temporary: dict[Path, Path] = {}
    try:
        for path, content in files.items():
            handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
            temporary[path] = Path(name)
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            temporary[path].chmod(0o644)
        for path, name_ in temporary.items():
            name_.replace(path)
    finally:
        for leftover in temporary.values():
            leftover.unlink(missing_ok=True)
