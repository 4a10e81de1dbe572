"""A server's process: `python -P -m tasks.prefect_runtime.served [--tied] MODULE WORDS...`.

It runs MODULE as `python -m` would, but Prefect's settings files of the current folder are not
read. With `--tied` it ends, with all that it has started, when standard input does: that is a pipe
from the command that started it, and ends however that command does.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading

from tasks.prefect_runtime.folder_settings import ignore_folder_settings

TIED = "--tied"


def end_with_input() -> None:
    """End this process and its group once standard input ends."""
    threading.Thread(target=_wait_for_the_end, daemon=True).start()


def _wait_for_the_end() -> None:
    while os.read(0, 4096):
        pass
    os.killpg(0, signal.SIGTERM)


def main() -> None:
    """Become the server that the command line names."""
    words = sys.argv[1:]
    if words[0] == TIED:
        end_with_input()
        words = words[1:]
    ignore_folder_settings()
    sys.argv = words
    runpy.run_module(words[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
