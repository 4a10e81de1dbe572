"""Which problems there are: a problem is a folder, and all layers may ask without importing one."""

from __future__ import annotations

import pkgutil
from pathlib import Path

# by the importer: a served version's library lies in an archive, which no folder lists
PROBLEM_NAMES = tuple(
    sorted(
        module.name
        for module in pkgutil.iter_modules([str(Path(__file__).parent / "problems")])
        if module.ispkg
    )
)
