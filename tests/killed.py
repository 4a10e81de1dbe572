"""A process that is killed just before one of its steps on the disk.

As after SIGKILL nothing of it runs any more, no `finally` and no end of a block.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator

STEPS = (
    *("os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.chmod", "os.link", "os.symlink"),
    "sqlite3.connect",
)
CODE = 137  # of a process that was killed
RAN, FAILED = 0, 1


def kill_at(step: int) -> None:
    """End this process before the step of that number, from 1; files opened to be written count."""
    left = step

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal left
        opened = event == "open" and isinstance(arguments[2], int) and arguments[2] & os.O_CREAT
        left -= event in STEPS or bool(opened)
        if left == 0:
            os._exit(CODE)

    sys.addaudithook(hook)


def kills(work: Callable[[], object]) -> Iterator[int]:
    """Do the work in a fork that is killed before its first step, then in one before its second,
    until it gets through; yields the number after each kill."""
    step = 1
    while (code := _forked(step, work)) == CODE:
        yield step
        step += 1
    assert code == RAN, f"killed at no step up to {step}, it fails"


def _forked(step: int, work: Callable[[], object]) -> int:
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code = FAILED
    try:
        kill_at(step)
        work()
        code = RAN
    finally:
        os._exit(code)
