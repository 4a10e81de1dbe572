"""Which tensors a network is made of: names, types and shapes, whatever numbers they hold."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from sfda.errors import BadInput
from sfda.sandbox.crossing import opened_within
from sfda.sandbox.messages import Unacceptable, plain
from sfda.weights.bundle_files import MOST_BYTES, WEIGHTS
from sfda.weights.tensor_file import TensorFile

Shapes = dict[str, tuple[object, tuple[int, ...]]]
"""Type (all of floating point are one) and shape by name."""


def bundle_shapes(folder: Path, bundle: str) -> Shapes:
    """Of a bundle's file that lies within `folder`. Raises Unacceptable, or BadInput."""
    try:
        with opened_within(folder, f"{bundle}/{WEIGHTS}", limit=MOST_BYTES[WEIGHTS]) as file:
            entries = TensorFile(file).entries
    except BadInput:
        raise
    except ValueError as error:
        raise Unacceptable(f"weights that cannot be read ({plain(str(error), 200)})") from None
    return {n: (e.kind.is_floating_point or e.kind, e.shape) for n, e in entries.items()}


def network_shapes(network: nn.Module) -> Shapes:
    """Of a network in memory."""
    tensors = network.state_dict()
    return {n: (t.is_floating_point() or t.dtype, tuple(t.shape)) for n, t in tensors.items()}
