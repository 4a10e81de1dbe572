"""What a network makes of a batch, in eval mode and in float32; all that serving needs."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from sfda.building_blocks.precision import network_precision
from sfda.errors import BadInput, NotFinite
from sfda.inference.pieces import give_back_memory, is_short_of_memory, join_parts
from sfda.types import Images

log = logging.getLogger("sfda")
Size = tuple[int, int]  # height, width in pixels
BATCH_PIXELS = 2**19  # of one batch where features are as large as the images


def images_at_once(size: Size) -> int:
    """Images of this size in one batch of 2^19 pixels, at least 1."""
    return max(1, BATCH_PIXELS // (size[0] * size[1]))


def refuse_not_finite(logits: Tensor) -> None:
    """Raise NotFinite for a network that has diverged, or was imported so."""
    if not logits.isfinite().all():
        raise NotFinite("the network's answers are not finite numbers")


@torch.no_grad()
def infer(network: nn.Module, images: Images, device: torch.device) -> Any:
    """What `network` makes of a batch in eval mode; bfloat16 inside on CUDA, float32 outside."""
    with (
        evaluating(network),
        network_precision(device),
    ):
        return as_float(_in_memory(network, images))


_fitting: WeakKeyDictionary[nn.Module, dict[torch.Size, int]] = WeakKeyDictionary()


def _in_memory(network: nn.Module, images: Images) -> Any:
    """Its outputs; where memory does not hold the batch those of halves, one after the other, and
    from then on of batches that are no larger.

    Raises BadInput where it does not hold a single image.
    """
    rows, shape = len(images), images.shape[1:]
    most = _fitting.get(network, {}).get(shape, rows)
    if rows > most:
        return join_parts([_in_memory(network, part) for part in images.split(most)])
    try:
        return network(images)
    except Exception as error:
        if not is_short_of_memory(error):
            raise
        if rows == 1:
            raise BadInput(
                f"memory does not hold one image of {' x '.join(map(str, shape[1:]))} pixels in "
                "this network; use --device cpu, or a machine that has more"
            ) from None
    _fitting.setdefault(network, {})[shape] = (rows + 1) // 2
    log.warning("memory does not hold %d images at once; they are looked at in halves", rows)
    give_back_memory()
    return _in_memory(network, images)


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Eval mode inside; afterwards every submodule is in the mode it was in."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def as_float(output: Any) -> Any:
    """The same structure with its floating-point tensors in float32."""
    if isinstance(output, Tensor):
        return output.float() if output.is_floating_point() else output
    if isinstance(output, dict):
        return {name: as_float(part) for name, part in output.items()}
    if isinstance(output, tuple) and hasattr(output, "_fields"):
        return type(output)(*map(as_float, output))
    if isinstance(output, list | tuple):
        return type(output)(map(as_float, output))
    if dataclasses.is_dataclass(output) and not isinstance(output, type):
        parts = {f.name: as_float(getattr(output, f.name)) for f in dataclasses.fields(output)}
        return dataclasses.replace(output, **parts)
    return output
