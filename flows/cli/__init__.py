"""The command line: `main` is what the command `sfda` calls."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """The entry point. An interrupt while modules are still imported is one line, too."""
    try:
        from flows.cli import app

        app.main()
    except KeyboardInterrupt:
        print("sfda: interrupted; nothing was begun", file=sys.stderr, flush=True)
        os._exit(130)
