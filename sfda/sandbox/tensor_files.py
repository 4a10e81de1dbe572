"""Tensors between a process and its children by files, where sockets are refused.

torch hands the memory of a tensor to another process through a UNIX socket. Here its bytes go
into a file which the receiver maps and deletes: in the process's own /dev/shm, or where it has none
in its temporary folder, so that none outlives a process that is killed.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler
from typing import Any

import torch
from torch import Tensor

from sfda.sandbox.privileges import SHARED_MEMORY, has_own_memory

SMALL = 1 << 14  # bytes that are not worth a file


def share_by_files() -> None:
    """From now on tensors go to other processes so, in this process and in those that it forks."""
    import torch.multiprocessing  # noqa: F401 - it registers its own way first

    ForkingPickler.register(Tensor, _reduced)


def _reduced(tensor: Tensor) -> tuple[Callable[..., Tensor], tuple[Any, ...]]:
    """How to make the tensor again."""
    plain = tensor.detach().cpu().contiguous()
    memory = plain.reshape(-1).view(torch.uint8).numpy().data
    form = (plain.dtype, tuple(plain.shape))
    if memory.nbytes <= SMALL:
        return _from_bytes, (memory.tobytes(), *form)
    folder = SHARED_MEMORY if has_own_memory() else None
    handle, name = tempfile.mkstemp(dir=folder, prefix="tensor.")
    with os.fdopen(handle, "wb") as file:
        file.write(memory)
    return _from_file, (name, memory.nbytes, *form)


def _from_bytes(content: bytes, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    if not content:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(bytearray(content), dtype=dtype).reshape(shape)


def _from_file(name: str, size: int, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    mapped = torch.from_file(name, shared=True, size=size, dtype=torch.uint8)
    os.unlink(name)
    return mapped.view(dtype).reshape(shape)
