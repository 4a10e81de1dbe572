"""Batches that memory does not hold: the network takes them in parts, and all else sees the whole.

A loss is still one of the whole batch, whatever it is made of. Only what the network keeps for its
gradient is of one part: the parts' activations are computed anew, one part after the other, when
the gradient is wanted (gradient checkpointing, arXiv:1604.06174, over rows instead of layers), and
the parameters' gradients add up. Batch norm in train mode is the exception: it sees one part.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sfda.building_blocks.norm import keep_statistics
from sfda.errors import BadInput

log = logging.getLogger("sfda")
T = TypeVar("T")

MOST_PARTS = 4  # parts of a batch: it is halved twice
SMALLEST_PART = 2  # rows of a part, as batch norm needs
SHORT = (  # what libraries say where they raise nothing of their own
    "out of memory",
    "not enough memory",
    "can't allocate memory",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_ALLOC_FAILED",
)


def is_short_of_memory(error: BaseException) -> bool:
    """Whether an error says that the device, or the machine, has no room for a tensor."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in SHORT)


def halving(work: Callable[[int], T], title: str, rows: int) -> T:
    """What `work` gives with each batch in one part, or where memory does not suffice in 2, then
    4. `rows` is the size of a batch.

    Raises BadInput where that does not do, either: for losses that are no affair of the network's
    forward pass, and for images that are too large.
    """
    parts = 1
    while True:
        with seen_parts() as taken:
            try:
                return work(parts)
            except Exception as error:
                if not is_short_of_memory(error):
                    raise
                shown = str(error).partition("\n")[0][:200]
                if (
                    parts == MOST_PARTS
                    or 2 * parts * SMALLEST_PART > rows
                    or (parts > 1 and not taken)
                ):
                    raise BadInput(
                        f"{title}: memory does not hold a batch of {rows}"
                        + (f", also in {parts} parts" if taken else "")
                        + f" ({shown}); lower it, e.g. --set schedule.batch_size={rows // 2}"
                    ) from None
        give_back_memory()
        parts *= 2
        log.warning(
            "%s: memory does not hold a batch of %d (%s); it is taken in %d parts",
            title,
            rows,
            shown,
            parts,
        )


def give_back_memory() -> None:
    """Let other tensors have what is held and not used."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


_taken: list[list[int]] = []  # whether networks took batches in parts, for `halving`


@contextmanager
def seen_parts() -> Iterator[list[int]]:
    """Inside, the list is told how many parts were made of each batch that learns."""
    _taken.append([])
    try:
        yield _taken[-1]
    finally:
        _taken.pop()


@contextmanager
def in_parts(networks: Iterable[nn.Module], parts: int) -> Iterator[None]:
    """Inside, these networks take their batches in so many parts, of 2 rows at least."""
    changed = [network for network in networks if parts > 1]
    for network in changed:
        network.forward = partial(_by_parts, network, network.forward, parts)
    try:
        yield
    finally:
        for network in changed:
            del network.forward


def _by_parts(
    network: nn.Module, forward: Callable[..., Any], parts: int, *inputs: Any, **more: Any
) -> object:
    images = inputs[0] if inputs else None
    alone = len(inputs) == 1 and not more and isinstance(images, Tensor)
    number = min(parts, len(images) // SMALLEST_PART) if alone and isinstance(images, Tensor) else 1
    if number < 2 or not isinstance(images, Tensor):
        return forward(*inputs, **more)
    split = images.tensor_split(number)
    if not torch.is_grad_enabled():
        return join_parts([forward(part) for part in split])
    for seen in _taken[-1:]:
        seen.append(number)
    # the second pass finds statistics moved already
    second = lambda: (nullcontext(), keep_statistics(network))  # noqa: E731
    return join_parts(
        [checkpoint(forward, part, use_reentrant=False, context_fn=second) for part in split]
    )


def join_parts(outputs: list[Any]) -> Any:
    """Outputs of a batch's parts as that of the batch: rows after rows, in every field."""
    first = outputs[0]
    if isinstance(first, Tensor):
        return torch.cat(outputs)
    if isinstance(first, dict):
        return {name: join_parts([output[name] for output in outputs]) for name in first}
    if isinstance(first, list):
        return [one for output in outputs for one in output]
    if isinstance(first, tuple):
        fields = [join_parts(list(field)) for field in zip(*outputs, strict=True)]
        return type(first)(*fields) if hasattr(first, "_fields") else tuple(fields)
    if first is None:
        return None
    raise TypeError(f"parts of a batch cannot be joined: {type(first).__name__}")
