"""`sfda`, which sends itself a signal before a step on the disk, or counts its steps.

`SFDA_TEST_FAULT` is SIGNAL:STEP, or 0:FILE for the file that the number of steps is written to.
"""

from __future__ import annotations

import atexit
import os
import sys
from pathlib import Path

STEPS = ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.chmod", "os.link", "os.symlink")


def listen(fault: str) -> None:
    """Count steps of this process from now on, and act at the one that is named."""
    number, _, where = fault.partition(":")
    at = int(where) if int(number) else 0
    done = 0

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal done
        opened = event == "open" and isinstance(arguments[2], int) and arguments[2] & os.O_CREAT
        if event in STEPS or opened:
            done += 1
            if done == 1 and not at:  # what is registered last is called first
                atexit.register(lambda: Path(where).write_text(str(done)))
            if done == at:
                os.kill(os.getpid(), int(number))

    sys.addaudithook(hook)


def main() -> None:
    """The entry point of `sfda`."""
    from flows import cli

    listen(os.environ.pop("SFDA_TEST_FAULT"))
    cli.main()


if __name__ == "__main__":
    main()
