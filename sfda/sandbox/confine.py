"""Give up all but what a piece of work needs, and see that it holds."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

from sfda.sandbox import seccomp
from sfda.sandbox.attest import Baits, still_open, ways_out
from sfda.sandbox.environment import forget_others
from sfda.sandbox.landlock import SCOPE_ABI, restrict
from sfda.sandbox.privileges import SHARED_MEMORY, drop_capabilities, own_shared_memory


class Limits(NamedTuple):
    """What a process may still reach: paths, and system calls that its work is excepted for."""

    read: list[str]
    write: list[str]
    listed: list[str]
    devices: list[str]
    exceptions: list[str]


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
    read, write, listed, devices = (list(map(Path, paths)) for paths in limits[:4])
    if foreign := drop_capabilities([*read, *write]):
        missing["capabilities"] = f"root reads {foreign} of another user by one of them"
    level = restrict(read, [*write, SHARED_MEMORY], listed, devices, network=False)
    if level < SCOPE_ABI:
        missing["signals"] = f"Landlock's ABI is {level}, below {SCOPE_ABI}"
    exceptions = frozenset(limits.exceptions)
    if seccomp.available():
        seccomp.refuse_calls(allowed=exceptions)
    else:
        missing["calls"] = f"no filter of system calls ({os.uname().machine})"
    return Held(level, _all_closed(baits, missing, exceptions))


def _all_closed(
    baits: Baits, missing: dict[str, str], exceptions: frozenset[str]
) -> dict[str, str]:
    ways = ways_out(baits, missing, exceptions)
    if faults := still_open(ways):
        raise RuntimeError("access was given up, and still open are: " + ", ".join(faults))
    return ways
