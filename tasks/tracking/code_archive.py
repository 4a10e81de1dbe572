"""The library that travels with a registered version: one archive, and the module that opens it."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import sfda

LOADER = "sfda_archive"  # the module that `mlflow.pyfunc` calls
ARCHIVE = "sfda.zip"
EARLIEST = (1980, 1, 1, 0, 0, 0)  # a zip knows none before: the same sources give the same bytes
SHIPPED = (".py", ".html", ".typed")  # modules, and the pages that they fill in
LOADER_TEXT = f'''"""Loads a model with the library that lies beside it, in {ARCHIVE}."""

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "{ARCHIVE}"))

from sfda.inference.served import _load_pyfunc  # noqa: E402, F401
'''


def write_code(folder: Path) -> list[str]:
    """The files that a version needs to be loaded where the library is not installed: its archive,
    which Python imports from as it is, and the module `LOADER`. The same sources give the same
    bytes.
    """
    root = Path(sfda.__file__).parent
    sources = [
        path
        for path in root.rglob("*")
        if path.is_file() and not path.is_symlink() and path.suffix in SHIPPED
    ]
    with zipfile.ZipFile(folder / ARCHIVE, "w") as archive:
        for path in sorted(sources, key=lambda path: path.relative_to(root).as_posix()):
            entry = zipfile.ZipInfo(f"sfda/{path.relative_to(root).as_posix()}", EARLIEST)
            entry.external_attr = 0o600 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            with path.open("rb") as source, archive.open(entry, "w") as target:
                shutil.copyfileobj(source, target)
    (folder / f"{LOADER}.py").write_text(LOADER_TEXT, encoding="utf-8")
    return [str(folder / ARCHIVE), str(folder / f"{LOADER}.py")]
