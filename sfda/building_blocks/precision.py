"""Where half precision may act: networks yes, losses and banks no."""

from __future__ import annotations

from contextlib import contextmanager
from functools import wraps
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

P = ParamSpec("P")
R = TypeVar("R")


def full_precision(function: Callable[P, R]) -> Callable[P, R]:
    """Run `function` outside autocast, so that its matrix products are taken in float32.

    Autocast would round similarities to bfloat16's eight bits, and duplicates would tie.
    """

    @wraps(function)
    def outside(*args: P.args, **kwargs: P.kwargs) -> R:
        with exact():
            return function(*args, **kwargs)

    return outside


@contextmanager
def exact() -> Iterator[None]:
    """Inside, no autocast."""
    with torch.autocast("cuda", enabled=False), torch.autocast("cpu", enabled=False):
        yield


def network_precision(device: torch.device, *, half: bool | None = None) -> torch.autocast:
    """Autocast for networks: bfloat16 on a GPU, none on a CPU unless `half` says so."""
    enabled = device.type == "cuda" if half is None else half
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled)
