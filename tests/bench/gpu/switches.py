"""The bare step of ResNet-50 under torch's switches: which of them pay."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch.utils import deterministic

from tests.bench.gpu.bare import Bare, seconds
from tests.bench.gpu.cases import SLOW, Target

CALLS, WARM_UP = 10, 5


class Switch(NamedTuple):
    """How the step is run."""

    deterministic: bool = False
    fill: bool = True  # fresh memory with NaN, where deterministic
    search: bool = False  # the fastest convolution, by trial
    channels_last: bool = True
    compiled: bool = False


SWITCHES = {
    "none": Switch(),
    "deterministic": Switch(deterministic=True),
    "deterministic, memory not filled": Switch(deterministic=True, fill=False),
    "cudnn.benchmark": Switch(search=True),
    "channels first": Switch(channels_last=False),
    "torch.compile": Switch(compiled=True),
}


def switches(target: Target, until: float) -> dict[str, Any]:
    """The bare step of the first case, all ways in turns; the last one compiles."""
    ready: dict[str, Bare] = {}
    rows: dict[str, Any] = {}
    for name, switch in SWITCHES.items():
        if switch.compiled and target.device.type != "cuda":
            continue  # takes a minute there
        if time.monotonic() > until:
            rows[name] = "not run: time"
            continue
        started = seconds(target.device)
        ready[name] = _prepared(target, switch)
        rows[name] = {
            "first_s": seconds(target.device) - started, "step_ms": [], "launch_ms": [],
        }  # fmt: skip
    for _ in range(target.repeats):
        for name, bare in ready.items():
            with _set(SWITCHES[name]):
                launched, done = _timed(bare)
            rows[name]["launch_ms"].append(launched)
            rows[name]["step_ms"].append(done)
    return {"switches": rows}


def _prepared(target: Target, switch: Switch) -> Bare:
    """A bare loop that has taken its first steps."""
    bare = Bare(target, target.config(SLOW))
    count = bare.usual
    if not switch.channels_last:
        bare.student.to(memory_format=torch.contiguous_format)
        bare.batches[count] = bare.images(count).contiguous()
    if switch.compiled:
        bare.student = torch.compile(bare.student)
    with _set(switch):
        for _ in range(WARM_UP):
            bare.step(count)
    return bare


def _timed(bare: Bare) -> tuple[float, float]:
    """Milliseconds a step until all is asked for, and until all is done."""
    before = seconds(bare.target.device)
    for _ in range(CALLS):
        bare.step(bare.usual)
    launched = time.perf_counter()
    done = seconds(bare.target.device)
    return 1000 * (launched - before) / CALLS, 1000 * (done - before) / CALLS


@contextmanager
def _set(switch: Switch) -> Iterator[None]:
    before = (
        torch.are_deterministic_algorithms_enabled(),
        deterministic.fill_uninitialized_memory,  # type: ignore[attr-defined]
        torch.backends.cudnn.benchmark,
    )
    _apply(switch.deterministic, switch.fill, switch.search)
    try:
        yield
    finally:
        _apply(*before)


def _apply(determined: bool, fill: bool, search: bool) -> None:
    torch.use_deterministic_algorithms(determined, warn_only=True)
    deterministic.fill_uninitialized_memory = fill  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = search
