"""Give up all but what a piece of work needs, and see that it holds."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

from sfda.sandbox import seccomp
from sfda.sandbox.attest import Baits, still_open, ways_out
from sfda.sandbox.environment import forget_others
from sfda.sandbox.landlock import SCOPE_ABI, restrict
from sfda.sandbox.privileges import (
    SHARED_MEMORY,
    drop_capabilities,
    leave_no_core,
    own_shared_memory,
)


class Limits(NamedTuple):
    """What a process may still reach, as paths."""

    read: list[str]
    write: list[str]
    devices: list[str]


class Held(NamedTuple):
    """What the kernel enforces from now on."""

    abi: int  # of Landlock
    ways_out: dict[str, str]


def confine(limits: Limits, baits: dict[str, Any]) -> Held:
    """Restrict this process for good. It must have one thread.

    Raises RuntimeError if a way out is open that should not be, OSError where the kernel refuses.
    """
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)  # no keyboard, and no terminal to type into
    os.close(nothing)
    forget_others()
    missing = {}
    if reason := own_shared_memory():
        missing["memory"] = reason
    read, write, devices = (list(map(Path, paths)) for paths in limits)
    left = drop_capabilities([*read, *write])
    if left.foreign:
        missing["capabilities"] = f"root reads {left.foreign} of another user by one of them"
    if not left.bounded:  # nothing is held, and no program can be started that would get it back
        missing["bounding set"] = "without CAP_SETPCAP the bounding set of capabilities stays"
    level = restrict(read, [*write, SHARED_MEMORY], devices)
    if level < SCOPE_ABI:
        missing["signals"] = f"Landlock's ABI is {level}, below {SCOPE_ABI}"
    leave_no_core()
    if seccomp.available():
        seccomp.refuse_calls()
    else:
        missing["calls"] = f"no filter of system calls ({os.uname().machine})"
    return Held(level, _all_closed(baits, missing))


def _all_closed(baits: Baits, missing: dict[str, str]) -> dict[str, str]:
    ways = ways_out(baits, missing)
    if faults := still_open(ways):
        raise RuntimeError("access was given up, and still open are: " + ", ".join(faults))
    return ways
