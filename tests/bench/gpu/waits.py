"""Where a step waits for the device: counted by the source line of ours that asked for it."""

from __future__ import annotations

import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

import sfda

OURS, OPTIMISERS = Path(sfda.__file__).parent, Path(torch.optim.__file__).parent
WAITS = frozenset(  # operators that wait for a GPU, by their names on the processor
    ("_local_scalar_dense", "nonzero", "masked_select", "equal", "bincount", "_unique2",
     "unique_consecutive", "unique_dim", "is_nonzero")
)  # fmt: skip


@contextmanager
def counted(device: torch.device, lines: Counter[str]) -> Iterator[None]:
    """Inside, every wait for the device is added to `lines`.

    On a GPU it is torch that tells them. On the processor they are the operators that would wait on
    a GPU: an estimate that knows no copies.
    """
    if device.type != "cuda":
        with _Operators(lines):
            yield
        return

    def note(message: Warning | str, *_: Any, **__: Any) -> None:
        if "synchroniz" in str(message):
            lines[source_line()] += 1

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = note
        with _mode("warn"):
            yield


@contextmanager
def refused(device: torch.device) -> Iterator[None]:
    """Inside, a wait for a GPU is a RuntimeError; nothing on the processor."""
    if device.type != "cuda":
        yield
        return
    with _mode("error"):
        yield


@contextmanager
def _mode(name: str) -> Iterator[None]:
    torch.cuda.set_sync_debug_mode(name)
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


class _Operators(TorchDispatchMode):
    """Counts operators that would wait."""

    def __init__(self, lines: Counter[str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.lines = lines

    def __torch_dispatch__(
        self, operator: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Run the operator and count it."""
        name = operator._schema.name.partition("::")[2]
        masked = name in ("index", "index_put_") and any(
            part is not None and part.dtype in (torch.bool, torch.uint8) for part in args[1]
        )
        # an optimiser's own counters stay on the processor
        if (masked or name in WAITS) and not _in(OPTIMISERS):
            self.lines[source_line()] += 1
        return operator(*args, **(kwargs or {}))


def _in(folder: Path) -> bool:
    """Whether a function of this folder is on the stack."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if Path(frame.f_code.co_filename).is_relative_to(folder):
            return True
        frame = frame.f_back
    return False


def source_line() -> str:
    """The innermost line of ours on the stack, as `methods/shot.py:88 losses`."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(OURS):
            return f"{path.relative_to(OURS)}:{frame.f_lineno} {frame.f_code.co_name}"
        frame = frame.f_back
    return "outside of sfda"


def blamed(error: BaseException) -> str:
    """The innermost line of ours that an error came through."""
    line, trace = "outside of sfda", error.__traceback__
    while trace is not None:
        path = Path(trace.tb_frame.f_code.co_filename)
        if path.is_relative_to(OURS):
            code = trace.tb_frame.f_code
            line = f"{path.relative_to(OURS)}:{trace.tb_lineno} {code.co_name}"
        trace = trace.tb_next
    return line
